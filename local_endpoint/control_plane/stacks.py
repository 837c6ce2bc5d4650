"""CloudFormation is moto's, which makes SageMaker's resources in a store of its own: a stack with some is refused."""

from __future__ import annotations

from typing import Any

PREFIX = "AWS::SageMaker::"


def refuse_sagemaker_in_stacks() -> None:
    """From now on, in this process. A template is looked at where it has been read, wherever it came from.

    Raises ``ModuleNotFoundError`` where moto's CloudFormation lacks packages. To import it takes seconds.
    """
    from moto.cloudformation.models import CloudFormationBackend, Stack
    from moto.cloudformation.parsing import ResourceMap

    if getattr(ResourceMap.load, "refuses_sagemaker", False):
        return
    for name in ("load", "update"):
        setattr(ResourceMap, name, _checked(getattr(ResourceMap, name)))
    create_change_set: Any = CloudFormationBackend.create_change_set

    def checked(self: Any, stack_name: str, change_set_name: str, template: str, **more: Any) -> Any:
        """moto makes the stack of a change set before it looks at the template."""
        _check(Stack.parse_template(template))
        return create_change_set(self, stack_name, change_set_name, template, **more)

    setattr(CloudFormationBackend, "create_change_set", checked)  # noqa: B010  # an assignment has no type


def _checked(method: Any) -> Any:
    def checked(self: Any, *arguments: Any, **named: Any) -> Any:
        template = arguments[0] if arguments else named.get("template", self._template)
        _check(template)
        return method(self, *arguments, **named)

    checked.refuses_sagemaker = True  # type: ignore[attr-defined]
    return checked


def _check(template: dict[str, Any]) -> None:
    """Raises moto's ``ValidationError``, the code that CloudFormation has for it."""
    resources = template.get("Resources") or {}
    types = sorted({str(its.get("Type")) for its in resources.values() if isinstance(its, dict)})
    found = [each for each in types if each.startswith(PREFIX)]
    if found:
        from moto.cloudformation.exceptions import ValidationError

        raise ValidationError(
            message=f"{', '.join(found)} cannot be made by a stack on this local endpoint. Make models, endpoint "
            "configurations and endpoints by SageMaker's own operations (CreateModel, CreateEndpointConfig, "
            "CreateEndpoint), and leave them out of the template."
        )
