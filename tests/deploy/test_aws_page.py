"""docs/how-to/aws.md, followed by Amazon's own `aws` against moto.

The registry that the page brings along has one made-up version. Images are entered in moto's ECR by their
manifests, as there is none that could be pushed to.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest

from tests.support.aws import serve_aws
from tests.support.clients import find_client_python
from tests.support.markdown import ROOT, list_blocks
from tests.support.tiny_model import publish_numeric
from tests.support.walkthrough import Walkthrough
from timberline.registry.store import open_store

pytestmark = pytest.mark.offline("aws", "moto")

PAGE = ROOT / "docs" / "how-to" / "aws.md"
TEXT = PAGE.read_text("utf-8")
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": 1,
            "digest": f"sha256:{'0' * 64}",
        },
        "layers": [],
    }
)
# Where moto is less than AWS:
# - Before a repository is asked for its images it is given one, as `docker push` has nowhere to go.
# - Of a stack that is deployed `aws` makes the change set, as it does always; the stack is then made of the
#   same words, as moto knows no outputs of one that a change set has made.
# - A task that is run has its memory once more in its container, without which moto runs none.
AWS = f"""#!{sys.executable}
import subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.support.aws import ask_cloud

words = sys.argv[1:]
cloud = ask_cloud()
is_stack = words[:2] == ["cloudformation", "deploy"]
if words[:3] == ["ecr", "describe-images", "--repository-name"]:
    cloud.client("ecr").put_image(repositoryName=words[3], imageManifest={MANIFEST!r}, imageTag="1")
if words[:2] == ["ecs", "run-task"]:
    place = words.index("--task-definition") + 1
    task = cloud.client("ecs").describe_task_definition(taskDefinition=words[place])["taskDefinition"]
    (container,) = task["containerDefinitions"]
    made = cloud.client("ecs").register_task_definition(
        family=task["family"], containerDefinitions=[container | dict(memory=int(task["memory"]))]
    )
    words[place] = made["taskDefinition"]["taskDefinitionArn"]
ended = subprocess.run(["PROGRAM", *words, *["--no-execute-changeset"][:is_stack]])
if is_stack and not ended.returncode:
    name, template = (words[words.index(flag) + 1] for flag in ("--stack-name", "--template-file"))
    given = [word.partition("=")[::2] for word in words[words.index("--parameter-overrides") + 1 :]]
    client = cloud.client("cloudformation")
    client.delete_stack(StackName=name)
    client.create_stack(
        StackName=name,
        TemplateBody=Path(template).read_text("utf-8"),
        Parameters=[dict(ParameterKey=key, ParameterValue=value) for key, value in given],
        Capabilities=words[words.index("--capabilities") + 1 :][:1] if "--capabilities" in words else [],
    )
sys.exit(ended.returncode)
"""


def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    """A name that is misspelt here is found by whoever pays for the machines meanwhile."""
    program = find_client_python("aws").with_name("aws")
    (folder := tmp_path / "aws").mkdir()
    with serve_aws(folder) as aws, Walkthrough(tmp_path, aws.environment) as reader:
        reader.provide("aws", AWS.replace("PROGRAM", str(program)))
        publish_numeric(open_store(reader.folder / "var" / "registry"), "forest_cover")
        count = reader.follow(PAGE)
        left = {each["StackName"] for each in aws.client("cloudformation").describe_stacks()["Stacks"]}
        jobs = aws.client("sagemaker").list_transform_jobs()["TransformJobSummaries"]
    assert count == sum(block.language == "sh" for block in list_blocks(TEXT)) > 10
    assert left == {"timberline"}
    assert [each["TransformJobName"] for each in jobs] == ["forest-cover-1"]


def test_the_page_says_first_that_no_account_was_used() -> None:
    """Whoever reads no further has read that."""
    assert TEXT.index("No AWS account was used") < TEXT.index("```")


def test_what_is_not_run_is_marked() -> None:
    """A block that looks as the others do is taken for one of them."""
    blocks = list(list_blocks(TEXT))
    shown = {
        block.line
        for before, block in itertools.pairwise(blocks)
        if before.language == "sh" and block.follows_directly
    }
    rest = [block for block in blocks if block.language == "text" and block.line not in shown]
    assert len(rest) == TEXT.count("ot run by the tests") == 2
