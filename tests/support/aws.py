"""Amazon's services as far as moto has them: a process of its own on loopback, and nobody's account.

    with serve_aws(folder) as aws:
        outputs = aws.deploy("timberline", "base.yaml", AlarmEmail="ops@example.com")
        aws.client("s3").get_bucket_versioning(Bucket=outputs["Bucket"])
        with aws.enforced():                        # from here on every request needs a right
            run(environment=aws.take_role(arn))     # as the task of this role

moto keeps what it is given. It starts no task, sends no mail, and of a policy it reads effect, action and
resource, not the conditions. `LEFT_OUT` are the types that its CloudFormation passes over.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import yaml

from tests.support.s3_server import serve_moto

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "deploy" / "aws"
ACCOUNT = "123456789012"
REGION = "us-east-1"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/timberline/serve@sha256:{'0' * 64}"
LEFT_OUT = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CloudWatch::Alarm",
    "AWS::Logs::MetricFilter",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
}


_FUNCTIONS = ("Fn::GetAtt", "Fn::If", "Fn::Sub")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML with the short forms of CloudFormation's functions: ``!Sub x`` is ``{"Fn::Sub": "x"}``."""


def _read_function(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        value = value.split(".", 1) if name == "GetAtt" else value
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _read_function)


def read_template(name: str) -> dict[str, Any]:
    """A template of ``deploy/aws``, its functions in the long form."""
    tree = yaml.load((TEMPLATES / name).read_text("utf-8"), _Loader)
    assert isinstance(tree, dict)
    return tree


def list_templates() -> list[str]:
    """The names of all templates."""
    return sorted(path.name for path in TEMPLATES.glob("*.yaml"))


def resolve(value: Any, known: Mapping[str, str]) -> Any:
    """``value`` with what ``known`` has filled in by name (``Bucket``, ``Role.Arn``); other names stand for
    themselves, and of an ``If`` the second way is taken, which is the one of empty parameters.

    Raises:
        KeyError: a function is used that no template had when this was written.
    """
    known = {"AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT, **known}
    if isinstance(value, list):
        return [resolve(each, known) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or next(iter(value)) not in ("Ref", *_FUNCTIONS):
        resolved = {key: resolve(each, known) for key, each in value.items()}
        return {key: each for key, each in resolved.items() if each != "AWS::NoValue"}
    ((name, argument),) = value.items()
    if name == "Fn::If":
        return resolve(argument[2], known)
    if name == "Fn::Sub":
        return re.sub(r"\$\{([^}]+)\}", lambda found: known.get(found[1], found[1]), argument)
    key = ".".join(argument) if name == "Fn::GetAtt" else argument
    return known.get(key, key)


class Cloud(NamedTuple):
    """A running moto, and an account that may do everything as long as no policy counts."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which `aws`, dockerd and the program reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "NO_PROXY": "127.0.0.1",
        }

    def client(self, service: str, environment: dict[str, str] | None = None) -> Any:
        """boto3's client of a service, as whom ``environment`` names."""
        account = environment or self.environment
        return boto3.client(
            service,
            endpoint_url=account["AWS_ENDPOINT_URL"],
            region_name=account["AWS_REGION"],
            aws_access_key_id=account["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=account["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=account.get("AWS_SESSION_TOKEN"),
        )

    def deploy(self, stack: str, template: str, **parameters: str) -> dict[str, str]:
        """Create or update a stack of a template of ``deploy/aws``; its outputs."""
        client = self.client("cloudformation")
        there = {each["StackName"] for each in client.describe_stacks()["Stacks"]}
        act = client.update_stack if stack in there else client.create_stack
        act(
            StackName=stack,
            TemplateBody=(TEMPLATES / template).read_text("utf-8"),
            Parameters=[{"ParameterKey": name, "ParameterValue": parameters[name]} for name in parameters],
            Capabilities=["CAPABILITY_IAM"],
        )
        (found,) = client.describe_stacks(StackName=stack)["Stacks"]
        assert found["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), found
        return {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}

    def list_parameters(self, base: dict[str, str]) -> dict[str, dict[str, str]]:
        """What each template beside base.yaml asks for; ``base`` are that one's outputs."""
        shared = {name: base[name] for name in ("Bucket", "AlarmTopic")}
        network = self.find_network()
        certificate = self.client("acm").request_certificate(DomainName="timberline.example")
        return {
            "service.yaml": {
                "Image": IMAGE,
                "Vpc": network["Vpc"],
                "LoadBalancerSubnets": network["Subnets"],
                "TaskSubnets": network["Subnets"],
                "ClientCidr": "10.0.0.0/8",
                "Certificate": certificate["CertificateArn"],
                **shared,
            },
            "stages.yaml": {"ToolsImage": IMAGE, "TrainImage": IMAGE, **network, **shared},
            "sagemaker.yaml": {"Image": IMAGE, "Archive": "sagemaker/forest_cover.tar.gz", **shared},
        }

    def list_resources(self, stack: str, account: dict[str, str] | None = None) -> dict[str, str]:
        """The physical names of a stack's resources by their logical ones, without those left out."""
        pages = self.client("cloudformation", account).get_paginator("list_stack_resources")
        found = [each for page in pages.paginate(StackName=stack) for each in page["StackResourceSummaries"]]
        return {
            each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found if each["ResourceType"]
        }

    def find_network(self) -> dict[str, str]:
        """The network that every account begins with: parameters ``Vpc`` and two subnets with a comma."""
        client = self.client("ec2")
        (vpc,) = client.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        subnets = client.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]
        return {"Vpc": vpc["VpcId"], "Subnets": ",".join(each["SubnetId"] for each in subnets[:2])}

    def take_role(self, name: str) -> dict[str, str]:
        """The variables of somebody who has taken the role of this name; not where policies count."""
        taken = self.client("sts").assume_role(
            RoleArn=f"arn:aws:iam::{ACCOUNT}:role/{name}", RoleSessionName="test"
        )["Credentials"]
        return {
            **self.environment,
            "AWS_ACCESS_KEY_ID": taken["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": taken["SecretAccessKey"],
            "AWS_SESSION_TOKEN": taken["SessionToken"],
        }

    def read_policies(self, role: str, account: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
        """The documents of a role's own policies by their names."""
        client = self.client("iam", account)
        names = client.list_role_policies(RoleName=role)["PolicyNames"]
        found = {
            name: client.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names
        }
        # moto gives those that a stack has made as Python writes them.
        return {
            name: ast.literal_eval(text) if isinstance(text, str) else text for name, text in found.items()
        }

    def write_policies(
        self, role: str, documents: dict[str, dict[str, Any]], account: dict[str, str] | None = None
    ) -> None:
        """Replace the documents of a role's own policies.

        moto cannot enforce those that a stack has made until they are written once more.
        """
        for name, document in documents.items():
            self.client("iam", account).put_role_policy(
                RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document)
            )

    def make_root(self) -> dict[str, str]:
        """The variables of a user that may do everything, also where policies count."""
        client = self.client("iam")
        client.create_user(UserName="root")
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
        client.put_user_policy(UserName="root", PolicyName="everything", PolicyDocument=document)
        key = client.create_access_key(UserName="root")["AccessKey"]
        return {
            **self.environment,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }

    @contextlib.contextmanager
    def enforced(self) -> Iterator[None]:
        """Within the block signatures and policies count; before and after it everybody may do everything."""
        self._allow("0")
        try:
            yield
        finally:
            self._allow("inf")

    def _allow(self, requests: str) -> None:
        """How many requests from now on are answered without a look at who asks."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        # Of another type than a form, which the server would read as one.
        request = urllib.request.Request(
            f"{self.endpoint}/moto-api/reset-auth",
            requests.encode(),
            {"Content-Type": "text/plain"},
            method="POST",
        )
        with direct.open(request, timeout=30):
            pass


def ask_cloud() -> Cloud:
    """The moto that the environment's variables lead to, for a program that a test starts."""
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    return Cloud(os.environ["AWS_ENDPOINT_URL"], key, secret)


@contextlib.contextmanager
def serve_aws(folder: Path) -> Iterator[Cloud]:
    """moto in a process of its own; its log lies in ``folder``."""
    with serve_moto(folder) as server:
        yield Cloud(server.endpoint, server.access_key, server.secret_key)
