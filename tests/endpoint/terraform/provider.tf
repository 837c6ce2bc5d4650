# Where the endpoint is and which key signs: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and so on, as for AWS itself.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 7.0"
    }
  }
}

provider "aws" {}

variable "role" {
  type        = string
  description = "ARN of the execution role."
}

variable "bucket" {
  type        = string
  description = "Bucket with models/one.tar.gz, models/first.tar.gz and models/second.tar.gz."
}

variable "instances" {
  type    = number
  default = 1
}

locals {
  image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/an-image:latest"
}
