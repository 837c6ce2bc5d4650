resource "aws_sagemaker_model" "variant" {
  for_each           = toset(["first", "second"])
  name               = "terraform-${each.key}"
  execution_role_arn = var.role

  primary_container {
    image          = local.image
    model_data_url = "s3://${var.bucket}/models/${each.key}.tar.gz"
  }
}

resource "aws_sagemaker_endpoint_configuration" "variants" {
  name = "terraform-variants"

  production_variants {
    variant_name           = "first"
    model_name             = aws_sagemaker_model.variant["first"].name
    initial_instance_count = 1
    initial_variant_weight = 0.75
    instance_type          = "ml.m5.large"
    volume_size_in_gb      = 20
  }

  production_variants {
    variant_name                                      = "second"
    model_name                                        = aws_sagemaker_model.variant["second"].name
    initial_instance_count                            = 1
    initial_variant_weight                            = 0.25
    instance_type                                     = "ml.m5.large"
    container_startup_health_check_timeout_in_seconds = 120
    model_data_download_timeout_in_seconds            = 120
  }
}

resource "aws_sagemaker_endpoint" "variants" {
  name                 = "terraform-variants"
  endpoint_config_name = aws_sagemaker_endpoint_configuration.variants.name
}
