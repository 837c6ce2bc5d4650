// What a user of the AWS SDK for JavaScript v3 does with a multi-model endpoint.
//
// usage: node story.cjs ROLE BUCKET FOLDER_OF_ARCHIVES      (AWS_ENDPOINT_URL and credentials in the environment;
//        NODE_PATH names the folder of the packages, which require() heeds and import does not)

"use strict";

const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const path = require("node:path");
const s3Module = require("@aws-sdk/client-s3");
const sagemakerModule = require("@aws-sdk/client-sagemaker");
const runtimeModule = require("@aws-sdk/client-sagemaker-runtime");

const IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/an-image:latest";
const NAME = "javascript";

async function main(role, bucket, folder) {
  const s3 = new s3Module.S3({});
  const sagemaker = new sagemakerModule.SageMaker({});
  const runtime = new runtimeModule.SageMakerRuntime({ maxAttempts: 1 });

  await s3.createBucket({ Bucket: bucket });
  const archive = readFileSync(path.join(folder, "one.tar.gz"));
  await s3.putObject({ Bucket: bucket, Key: "models/nested/one.tar.gz", Body: archive });
  const kept = await s3.getObject({ Bucket: bucket, Key: "models/nested/one.tar.gz" });
  assert.ok(archive.equals(await kept.Body.transformToByteArray()));

  await sagemaker.createModel({
    ModelName: NAME,
    ExecutionRoleArn: role,
    PrimaryContainer: { Image: IMAGE, Mode: "MultiModel", ModelDataUrl: `s3://${bucket}/models/` },
  });
  await serve(sagemaker, NAME);

  const answer = await runtime.invokeEndpoint({
    EndpointName: NAME,
    TargetModel: "nested/one.tar.gz",
    ContentType: "application/json",
    Body: "[[1, 2, 3, 4]]",
  });
  assert.deepEqual(JSON.parse(answer.Body.transformToString()), { predictions: [[1, 2, 3, 4]] });
  assert.equal(answer.InvokedProductionVariant, "AllTraffic");

  await assert.rejects(
    runtime.invokeEndpoint({ EndpointName: NAME, TargetModel: "missing.tar.gz", Body: "{}" }),
    (error) => {
      assert.equal(error.name, "ValidationError");
      assert.ok(error instanceof runtimeModule.ValidationError, "the SDK has a class of its own for it");
      assert.equal(error.$metadata.httpStatusCode, 400);
      assert.match(error.message, /^Failed to download model data/);
      return true;
    },
  );
  await assert.rejects(sagemaker.describeEndpoint({ EndpointName: "nobody" }), (error) => {
    assert.equal(error.name, "ValidationException");
    assert.match(error.message, /^Could not find endpoint "arn:aws:sagemaker:.*:endpoint\/nobody"\.$/);
    return true;
  });

  await direct(sagemaker, runtime, role, `s3://${bucket}/models/nested/one.tar.gz`);

  await sagemaker.deleteEndpoint({ EndpointName: NAME });
  await sagemakerModule.waitUntilEndpointDeleted(
    { client: sagemaker, minDelay: 1, maxDelay: 1, maxWaitTime: 60 },
    { EndpointName: NAME },
  );
  await sagemaker.deleteEndpointConfig({ EndpointConfigName: NAME });
  await sagemaker.deleteModel({ ModelName: NAME });
  await s3.deleteObject({ Bucket: bucket, Key: "models/nested/one.tar.gz" });
  await s3.deleteBucket({ Bucket: bucket });
  console.log("the story is told");
}

// Brings up an endpoint for the model of the same name, and waits for it.
async function serve(sagemaker, name) {
  await sagemaker.createEndpointConfig({
    EndpointConfigName: name,
    ProductionVariants: [
      { VariantName: "AllTraffic", ModelName: name, InitialInstanceCount: 1, InstanceType: "ml.m5.xlarge" },
    ],
  });
  await sagemaker.createEndpoint({ EndpointName: name, EndpointConfigName: name });
  await sagemakerModule.waitUntilEndpointInService(
    { client: sagemaker, minDelay: 1, maxDelay: 1, maxWaitTime: 60 },
    { EndpointName: name },
  );
}

// Two containers of one endpoint, of which a request names one.
async function direct(sagemaker, runtime, role, url) {
  const name = `${NAME}-direct`;
  await sagemaker.createModel({
    ModelName: name,
    ExecutionRoleArn: role,
    Containers: [
      { ContainerHostname: "first", Image: IMAGE },
      { ContainerHostname: "second", Image: IMAGE, ModelDataUrl: url },
    ],
    InferenceExecutionConfig: { Mode: "Direct" },
  });
  await serve(sagemaker, name);
  const request = { EndpointName: name, ContentType: "application/json", Body: "[[1, 2, 3, 4]]" };
  const answer = await runtime.invokeEndpoint({ ...request, TargetContainerHostname: "second" });
  assert.deepEqual(JSON.parse(answer.Body.transformToString()), { predictions: [[1, 2, 3, 4]] });
  const other = await runtime.invokeEndpoint({ ...request, TargetContainerHostname: "first" });
  assert.equal(JSON.parse(other.Body.transformToString()).path, "/invocations");
  await assert.rejects(runtime.invokeEndpoint({ ...request, TargetContainerHostname: "third" }), (error) => {
    assert.equal(error.name, "ValidationError");
    assert.match(error.message, /^Container third not found for endpoint javascript-direct of account/);
    return true;
  });
  await sagemaker.deleteEndpoint({ EndpointName: name });
  await sagemaker.deleteEndpointConfig({ EndpointConfigName: name });
  await sagemaker.deleteModel({ ModelName: name });
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
