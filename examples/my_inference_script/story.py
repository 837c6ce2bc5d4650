"""Two models with their own inference.py and their own version of a package that the image does not have."""

from __future__ import annotations

from examples.story import Story, expect, heading, parser, tell
from scripts.programs.console import run

PACKAGE = "humanize"
VERSIONS = ("4.9.0", "4.12.3")
SCRIPT = """\
import json

import humanize  # from this model's own requirements.txt


def model_fn(model_dir):
    return humanize.__version__


def input_fn(body, content_type):
    return json.loads(body)


def predict_fn(data, model):
    return {"said": [humanize.intword(number) for number in data], "humanize": model}


def output_fn(prediction, accept):
    return json.dumps(prediction), "application/json"
"""


def show(story: Story) -> None:
    """All steps."""
    heading(f"Two models, each with code/inference.py and code/requirements.txt: {PACKAGE} {' and '.join(VERSIONS)}")
    for version in VERSIONS:
        code = story.folder / version / "code"
        code.mkdir(parents=True)
        (code / "inference.py").write_text(SCRIPT)
        (code / "requirements.txt").write_text(f"{PACKAGE}=={version}\n")
        for copy in ("a", "b"):
            story.upload(story.folder / version, f"words-{version}-{copy}.tar.gz")

    heading("One endpoint for both")
    story.deploy()

    heading("The first model of a set of packages has them installed; the next one finds them")
    for version in VERSIONS:
        for copy in ("a", "b"):
            answer = story.invoke(f"words-{version}-{copy}.tar.gz", "[1234567, 12]", "application/json")
            text = answer.body.decode()
            expect(f'"humanize": "{version}"' in text and "1.2 million" in text, text)
            print(f"  words-{version}-{copy}: {text}   in {answer.latency_ms:.0f} ms", flush=True)


def main() -> int:
    """Returns 0 once all was shown."""
    given = parser("my_inference_script", f"{__doc__} Needs the Python package index.").parse_args()
    return tell("scripts", given.port, show)


if __name__ == "__main__":
    run(main)
