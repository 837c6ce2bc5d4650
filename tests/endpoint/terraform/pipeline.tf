resource "aws_sagemaker_model" "pipeline" {
  name                     = "terraform-pipeline"
  execution_role_arn       = var.role
  enable_network_isolation = true

  container {
    image              = local.image
    container_hostname = "first"
    model_data_url     = "s3://${var.bucket}/models/first.tar.gz"
  }

  container {
    image              = local.image
    container_hostname = "second"
    model_data_url     = "s3://${var.bucket}/models/second.tar.gz"

    environment = {
      WHO = "second"
    }
  }

  inference_execution_config {
    mode = "Serial"
  }
}

resource "aws_sagemaker_endpoint_configuration" "pipeline" {
  name = "terraform-pipeline"

  production_variants {
    variant_name           = "AllTraffic"
    model_name             = aws_sagemaker_model.pipeline.name
    initial_instance_count = 1
    instance_type          = "ml.m5.large"
  }
}

resource "aws_sagemaker_endpoint" "pipeline" {
  name                 = "terraform-pipeline"
  endpoint_config_name = aws_sagemaker_endpoint_configuration.pipeline.name
}
