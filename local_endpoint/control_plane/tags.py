"""Tags of models, endpoint configurations and endpoints: AddTags, ListTags, DeleteTags."""

from __future__ import annotations

from local_endpoint.control_plane.records import Call, Parameters, Records
from local_endpoint.errors import ValidationException


class Tags:
    """Each operation is a method of its name. All raise ``AwsError``."""

    def __init__(self, records: Records) -> None:
        self._resources = records.resources

    def add_tags(self, call: Call) -> Parameters:
        resource_arn = self._require_arn(call)
        tags = {each["Key"]: each["Value"] for each in self._resources.tags(resource_arn) + call.parameters["Tags"]}
        self._resources.set_tags(resource_arn, [{"Key": key, "Value": value} for key, value in tags.items()])
        return {"Tags": self._resources.tags(resource_arn)}

    def list_tags(self, call: Call) -> Parameters:
        return {"Tags": self._resources.tags(self._require_arn(call))}

    def delete_tags(self, call: Call) -> Parameters:
        resource_arn = self._require_arn(call)
        tags = [each for each in self._resources.tags(resource_arn) if each["Key"] not in call.parameters["TagKeys"]]
        self._resources.set_tags(resource_arn, tags)
        return {}

    def _require_arn(self, call: Call) -> str:
        resource_arn = str(call.parameters["ResourceArn"])
        if not self._resources.exists(resource_arn):
            raise ValidationException(f'Could not find resource "{resource_arn}".')
        return resource_arn
