resource "aws_sagemaker_model" "many" {
  name               = "terraform-many"
  execution_role_arn = var.role

  primary_container {
    image          = local.image
    mode           = "MultiModel"
    model_data_url = "s3://${var.bucket}/models/"

    environment = {
      WHO = "many"
    }

    multi_model_config {
      model_cache_setting = "Enabled"
    }
  }

  tags = {
    team = "tests"
  }
}

resource "aws_sagemaker_endpoint_configuration" "many" {
  name_prefix = "terraform-many-"

  production_variants {
    variant_name           = "AllTraffic"
    model_name             = aws_sagemaker_model.many.name
    initial_instance_count = var.instances
    instance_type          = "ml.m5.xlarge"

    routing_config {
      routing_strategy = "LEAST_OUTSTANDING_REQUESTS"
    }
  }

  data_capture_config {
    enable_capture              = true
    initial_sampling_percentage = 20
    destination_s3_uri          = "s3://${var.bucket}/captured/"

    capture_options {
      capture_mode = "InputAndOutput"
    }

    capture_content_type_header {
      json_content_types = ["application/json"]
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_sagemaker_endpoint" "many" {
  name                 = "terraform-many"
  endpoint_config_name = aws_sagemaker_endpoint_configuration.many.name

  deployment_config {
    blue_green_update_policy {
      termination_wait_in_seconds          = 0
      maximum_execution_timeout_in_seconds = 600

      traffic_routing_configuration {
        type                     = "ALL_AT_ONCE"
        wait_interval_in_seconds = 0
      }
    }

    auto_rollback_configuration {
      alarms {
        alarm_name = "errors"
      }
    }
  }

  tags = {
    team = "tests"
  }
}
