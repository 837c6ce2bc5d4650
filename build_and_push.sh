#!/usr/bin/env bash
# Builds the image and pushes it to Amazon ECR, whose repository is created if it is missing, or to another registry.
set -euo pipefail

default_name=demo-sagemaker-multimodel
fallback_region=us-west-2

usage() {
  cat <<USAGE
usage: ./build_and_push.sh [--region R] [--tag T] [--build-only] [--registry HOST[:PORT]] [image-name]

Builds container/Dockerfile and pushes the image to Amazon ECR in the account of your AWS credentials.
  image-name               repository to push to; default $default_name
  --region R               default: AWS_REGION, AWS_DEFAULT_REGION, \`aws configure get region\`, else $fallback_region
  --tag T                  default latest
  --build-only             build and tag on this machine, push nothing; needs no AWS CLI
  --registry HOST[:PORT]   push there instead of to ECR; log in yourself first where the registry asks for it

The last line of standard output is the image's name, as CreateModel and docker run take it; all else goes to
standard error. Environment:
  DOCKER_BUILD_OPTIONS     more options for docker build, separated by blanks, for example
                           DOCKER_BUILD_OPTIONS="--network host --build-arg BASE_IMAGE=registry.example/debian:trixie-slim"
USAGE
}

say() { echo "build_and_push: $*" >&2; }
fail() { say "failed: $*"; exit 1; }
misused() { echo "build_and_push: $*" >&2; usage >&2; exit 2; }

region='' tag=latest build_only=no registry='' name=''
while (($#)); do
  case $1 in
    --region|--tag|--registry)
      [[ $# -ge 2 && -n $2 && $2 != -* ]] || misused "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --build-only) build_only=yes; shift ;;
    -h|--help) usage; exit 0 ;;
    -*) misused "unknown option $1" ;;
    *)
      [[ -z $name ]] || misused "one image name, not $name and $1"
      [[ -n $1 ]] || misused "the image name is empty"
      name=$1
      shift
      ;;
  esac
done
name=${name:-$default_name}
# what both Docker and ECR take
[[ $name =~ ^[a-z0-9]+([._/-][a-z0-9]+)*$ ]] || misused "image name $name: lower-case letters, digits and . _ - / between them"
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || misused "tag $tag: at most 128 letters, digits and . _ -"
# Docker takes a first part without dot or port for a user of its own registry, localhost excepted.
[[ -z $registry || $registry =~ ^([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+:[0-9]+|localhost)$ ]] \
  || misused "registry $registry: expected is HOST or HOST:PORT"
[[ -z $region || $region =~ ^[a-z]+(-[a-z]+)+-[0-9]+$ ]] || misused "region $region: expected is something like $fallback_region"
[[ $build_only == no || -z $region ]] || misused "--build-only pushes nothing, so there is no --region to push to: leave it out"
[[ -z $registry || -z $region ]] || misused "--region is ECR's, --registry is for another registry: give one of them"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v docker >/dev/null || fail "no docker on PATH. Install Docker first."

# What may be missing in the AWS account is found out before minutes are spent on the build.
to_ecr=no
if [[ $build_only == no && -z $registry ]]; then
  to_ecr=yes
  export AWS_PAGER=
  command -v aws >/dev/null || fail "no aws on PATH. Install the AWS CLI, or use --registry or --build-only."
  region=${region:-${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}}
  region=${region:-$fallback_region}
  account=$(aws sts get-caller-identity --query Account --output text --region "$region") \
    || fail "AWS does not say whose credentials these are (aws sts get-caller-identity). Run: aws configure"
  [[ $account =~ ^[0-9]{12}$ ]] || fail "aws sts get-caller-identity answered '$account', which is no account number."
  suffix=amazonaws.com
  [[ $region == cn-* ]] && suffix=amazonaws.com.cn
  registry=$account.dkr.ecr.$region.$suffix
fi
image=${registry:+$registry/}$name:$tag

version=unversioned revision=unknown
if git -C "$root" rev-parse --verify --quiet HEAD >/dev/null 2>&1; then
  revision=$(git -C "$root" rev-parse HEAD)
  version=$(git -C "$root" describe --tags --always --dirty)
fi

say "building $image from container/Dockerfile"
# SageMaker's CPU instances that MXNet has packages for are x86-64; a Mac would build for its own processor.
export DOCKER_DEFAULT_PLATFORM=${DOCKER_DEFAULT_PLATFORM:-linux/amd64}
# CreateModel takes manifests of Docker's media types alone. BuildKit writes OCI's where Docker keeps its images in
# containerd, and wraps the image into an index with records of provenance; both are switched off. The builder is that
# of Docker's own engine, which pushes the image later: one in a container of its own would keep it to itself.
build=(docker build)
if [[ ${DOCKER_BUILDKIT:-1} != 0 ]] && docker buildx version >/dev/null 2>&1; then
  builder=$(docker context show 2>/dev/null) || builder=default
  build=(docker buildx build --builder "${builder:-default}" --output type=image,oci-mediatypes=false)
  options=$(docker buildx build --help 2>/dev/null) || options=''
  [[ $options != *--provenance* ]] || build+=(--provenance=false --sbom=false)  # buildx 0.10 or later
fi
read -r -a build_options <<<"${DOCKER_BUILD_OPTIONS:-}"
"${build[@]}" ${build_options[@]+"${build_options[@]}"} --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
  --tag "$name:$tag" "$root/container" >&2 || fail "docker build. Its last lines above say why."
if [[ $build_only == yes ]]; then
  docker tag "$name:$tag" "$image" || fail "docker tag $name:$tag $image"
  say "built $image"
  echo "$image"
  exit 0
fi

if [[ $to_ecr == yes ]]; then
  if ! answer=$(aws ecr describe-repositories --repository-names "$name" --region "$region" 2>&1 >/dev/null); then
    [[ $answer == *RepositoryNotFoundException* ]] || { echo "$answer" >&2; fail "aws ecr describe-repositories $name"; }
    say "creating the ECR repository $name in $region"
    aws ecr create-repository --repository-name "$name" --region "$region" >/dev/null \
      || fail "aws ecr create-repository $name"
  fi
  say "logging in to $registry"
  password=$(aws ecr get-login-password --region "$region") || fail "aws ecr get-login-password"
  printf '%s' "$password" | docker login --username AWS --password-stdin "$registry" >&2 \
    || fail "docker login to $registry"
fi
docker tag "$name:$tag" "$image" || fail "docker tag $name:$tag $image"
say "pushing $image"
docker push "$image" >&2 || fail "docker push $image"
# Whatever built it: the registry says what CreateModel is going to read.
inspect=(docker manifest inspect)
[[ $to_ecr == yes ]] || inspect+=(--insecure)  # a registry on this machine may have no TLS
manifest=$("${inspect[@]}" "$image" 2>/dev/null) || manifest=''
case $manifest in
  *vnd.oci.image.*|*manifest.list.v2*)
    fail "$image is there with an OCI manifest or an index, and CreateModel takes neither. Run it again with" \
      "DOCKER_BUILDKIT=0 and without --output, --provenance or --platform lists in DOCKER_BUILD_OPTIONS, or switch off" \
      "Docker's containerd image store."
    ;;
  *distribution.manifest.v2+json*) ;;
  *) say "warning: docker manifest inspect does not say of which media type $image is; CreateModel takes Docker's alone" ;;
esac
say "pushed $image"
echo "$image"
