"""The templates of deploy/aws: read by cfn-lint, and made, changed and removed in moto.

cfn-lint holds them to Amazon's own schemas and rules. moto makes the resources that its CloudFormation knows;
`tests.support.aws.LEFT_OUT` are the others, of which cfn-lint is the only check.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.aws import (
    ACCOUNT,
    IMAGE,
    LEFT_OUT,
    TEMPLATES,
    Cloud,
    list_templates,
    read_template,
    resolve,
    serve_aws,
)
from tests.support.service import DEADLINE_S

OTHER_IMAGE = IMAGE.replace("0" * 64, "1" * 64)


def lint(*paths: Path) -> list[str]:
    """The rules of cfn-lint that the templates break."""
    program = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run(
        [program, "--format", "json", "--", *paths], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    assert bool(found) == bool(done.returncode), done.stderr
    return sorted({f"{each['Rule']['Id']} {each['Message']}" for each in found})


@pytest.mark.offline("cfn-lint")
def test_cfn_lint_finds_nothing() -> None:
    """A template that Amazon refuses is found by whoever deploys it."""
    assert len(list_templates()) == 4
    assert lint(*(TEMPLATES / name for name in list_templates())) == []


@pytest.mark.offline("cfn-lint")
@pytest.mark.parametrize(
    ("name", "right", "wrong", "rule"),
    [
        ("service.yaml", 'Memory: "2048"', 'Memory: "512"', "E3047"),  # a pair that Fargate does not have
        ("service.yaml", "ReadonlyRootFilesystem:", "ReadOnlyRootFilesystem:", "E3002"),
        ("service.yaml", "!Ref TargetGroup}", "!Ref Target}", "E1020"),
        ("service.yaml", "!GetAtt ServeRole.Arn", "!GetAtt ServeRole.Name", "E1010"),
        ("service.yaml", "RetentionInDays: 30", "RetentionInDays: 31", "E3030"),
        ("service.yaml", "StopTimeout: 45", "StopTimeout: 45s", "E3012"),
        ("service.yaml", "Effect: Allow", "Effect: Alow", "E3510"),
        ("service.yaml", "Family: !Sub", "Families: !Sub", "E3002"),
        ("base.yaml", "SSEAlgorithm: AES256", "SSEAlgorithm: AES265", "E3030"),
        ("base.yaml", "Condition: HasEmail", "Condition: HasMail", "E3015"),
        ("stages.yaml", "Type: Choice", "Type: Choose", "E3601"),
        ("stages.yaml", "      RoleArn: !GetAtt ReleaseRole.Arn\n", "", "E3003"),
        ("sagemaker.yaml", "ModelName: !GetAtt Model.ModelName", "Model: !GetAtt Model.ModelName", "E3002"),
    ],
)
def test_cfn_lint_finds_a_planted_error(tmp_path: Path, name: str, right: str, wrong: str, rule: str) -> None:
    """Silence of a tool that would find nothing is worth nothing."""
    text = (TEMPLATES / name).read_text("utf-8")
    assert right in text
    (tmp_path / name).write_text(text.replace(right, wrong), "utf-8")
    found = lint(tmp_path / name)
    assert any(each.startswith(rule) for each in found), found


def find_arn(physical: str) -> str:
    """The ARN of a resource that is called so; of those that have none it is a role's."""
    return physical if physical.startswith("arn:") else f"arn:aws:iam::{ACCOUNT}:role/{physical}"


def camel(tree: Any) -> Any:
    """The names of fields as those APIs write them that begin with a small letter."""
    if isinstance(tree, list):
        return [camel(each) for each in tree]
    if isinstance(tree, dict):
        return {key[0].lower() + key[1:]: camel(each) for key, each in tree.items()}
    return tree


class Stacks:
    """All stacks in moto, and what they are made of."""

    def __init__(self, aws: Cloud) -> None:
        self.aws = aws
        self.base = aws.deploy("timberline", "base.yaml", AlarmEmail="ops@example.com")
        self.parameters = aws.list_parameters(self.base)
        self.parameters["stages.yaml"]["Schedule"] = "cron(0 3 ? * MON *)"
        for name in self.parameters:
            aws.deploy(self.stack(name), name, **self.parameters[name])

    @staticmethod
    def stack(template: str) -> str:
        """The name of a template's stack."""
        stem = template.partition(".")[0]
        return "timberline" if stem == "base" else f"timberline-{stem}"

    def put_bucket(self) -> None:
        """Give the bucket, through its own API, what moto's CloudFormation drops of it."""
        client, name = self.aws.client("s3"), {"Bucket": self.base["Bucket"]}
        given = self.properties("base.yaml", "Bucket")
        client.put_bucket_versioning(**name, VersioningConfiguration=given["VersioningConfiguration"])
        client.put_bucket_ownership_controls(**name, OwnershipControls=given["OwnershipControls"])
        closed = given["PublicAccessBlockConfiguration"]
        client.put_public_access_block(**name, PublicAccessBlockConfiguration=closed)
        policy = self.properties("base.yaml", "BucketPolicy")["PolicyDocument"]
        client.put_bucket_policy(**name, Policy=json.dumps(policy))
        rules = []
        for rule in given["LifecycleConfiguration"]["Rules"]:
            more = {"ID": rule.pop("Id"), "Prefix": rule.pop("Prefix", "")}
            if rule.pop("ExpiredObjectDeleteMarker", False):
                more["Expiration"] = {"ExpiredObjectDeleteMarker": True}
            rules.append(rule | more)
        client.put_bucket_lifecycle_configuration(**name, LifecycleConfiguration={"Rules": rules})

    def properties(self, template: str, logical: str) -> Any:
        """What a template says of a resource, names filled in."""
        made = self.resources(template)
        arns = {f"{name}.Arn": find_arn(physical) for name, physical in made.items()}
        names = {"Bucket.Arn": f"arn:aws:s3:::{self.base['Bucket']}"} if template == "base.yaml" else {}
        tree = read_template(template)
        defaults = {name: str(each.get("Default", "")) for name, each in tree["Parameters"].items()}
        stack = {"AWS::StackName": self.stack(template)}
        known = {**made, **arns, **names, **stack, **defaults, **self.parameters.get(template, {})}
        return resolve(tree["Resources"][logical]["Properties"], known)

    def resources(self, template: str) -> dict[str, str]:
        """Physical names by logical ones."""
        return self.aws.list_resources(self.stack(template))

    def find_task(self, logical: str = "Task", template: str = "service.yaml") -> Any:
        """A task definition as it is now."""
        arn = self.resources(template)[logical]
        return self.aws.client("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"]


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    """Made once for all tests that read; the last test of the file changes and removes them."""
    with serve_aws(tmp_path_factory.mktemp("aws")) as aws:
        yield Stacks(aws)


@pytest.mark.offline("moto")
@pytest.mark.parametrize("name", list_templates())
def test_every_resource_is_made_but_those_that_moto_leaves_out(stacks: Stacks, name: str) -> None:
    """A list of what was not tried is worth something only if it is whole."""
    tree = read_template(name)["Resources"]
    conditional = {
        logical for logical, each in tree.items() if each.get("Condition") in ("HasTokens", "HasKaggle")
    }
    made = set(stacks.resources(name))
    missing = {each["Type"] for logical, each in tree.items() if logical not in made | conditional}
    assert missing <= LEFT_OUT
    assert made | {logical for logical in tree if tree[logical]["Type"] in LEFT_OUT} | conditional == set(
        tree
    )


@pytest.mark.offline("moto")
def test_the_bucket_is_versioned_encrypted_and_closed(stacks: Stacks) -> None:
    """What is lost or read here are rows and models."""
    client, name = stacks.aws.client("s3"), {"Bucket": stacks.base["Bucket"]}
    stacks.put_bucket()
    assert client.get_bucket_versioning(**name)["Status"] == "Enabled"
    (rule,) = client.get_bucket_encryption(**name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    blocked = client.get_public_access_block(**name)["PublicAccessBlockConfiguration"]
    assert blocked == dict.fromkeys(blocked, True)
    assert len(blocked) == 4
    (owner,) = client.get_bucket_ownership_controls(**name)["OwnershipControls"]["Rules"]
    assert owner == {"ObjectOwnership": "BucketOwnerEnforced"}
    (statement,) = json.loads(client.get_bucket_policy(**name)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == [f"arn:aws:s3:::{name['Bucket']}", f"arn:aws:s3:::{name['Bucket']}/*"]


@pytest.mark.offline("moto")
def test_no_rule_of_the_bucket_takes_anything_from_the_registry(stacks: Stacks) -> None:
    """One that expires objects loses versions; parts of broken uploads alone go everywhere."""
    stacks.put_bucket()
    rules = stacks.aws.client("s3").get_bucket_lifecycle_configuration(Bucket=stacks.base["Bucket"])["Rules"]
    everywhere = [rule for rule in rules if not rule.get("Prefix", "").startswith("data/")]
    (parts,) = everywhere
    assert parts["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert {"Expiration", "NoncurrentVersionExpiration"} & set(parts) == set()
    assert all("Days" not in rule.get("Expiration", {}) for rule in rules)


@pytest.mark.offline("moto")
def test_images_are_scanned_and_their_tags_stay(stacks: Stacks) -> None:
    """A tag that moves is another program under the name of the one that was tried."""
    found = stacks.aws.client("ecr").describe_repositories()["repositories"]
    assert {each["repositoryName"] for each in found} == {
        f"timberline/{n}" for n in ("serve", "tools", "train")
    }
    for each in found:
        assert each["imageTagMutability"] == "IMMUTABLE"
        assert each["repositoryUri"] in stacks.base.values()
    for name in ("Serve", "Tools", "Train"):
        given = stacks.properties("base.yaml", f"{name}Images")
        assert given["ImageScanningConfiguration"] == {"ScanOnPush": True}
        policy = stacks.aws.client("ecr").put_lifecycle_policy(
            repositoryName=given["RepositoryName"],
            lifecyclePolicyText=given["LifecyclePolicy"]["LifecyclePolicyText"],
        )
        (rule,) = json.loads(policy["lifecyclePolicyText"])["rules"]
        assert rule["selection"]["tagStatus"] == "untagged"


@pytest.mark.offline("moto")
def test_logs_end_after_a_month(stacks: Stacks) -> None:
    """Log groups that nobody has made keep everything for ever."""
    found = stacks.aws.client("logs").describe_log_groups()["logGroups"]
    assert {each["logGroupName"]: each["retentionInDays"] for each in found} == {
        "/timberline/timberline-service": 30,
        "/timberline/timberline-stages": 30,
        "/aws/sagemaker/Endpoints/timberline-sagemaker": 30,
    }


@pytest.mark.offline("moto")
def test_the_service_can_write_nothing_and_has_time_to_end(stacks: Stacks) -> None:
    """What the container is given is all that a mistake in it can use."""
    (container,) = stacks.find_task()["containerDefinitions"]
    assert container["image"] == IMAGE
    assert container["user"] == "10001"
    assert container["readonlyRootFilesystem"] is True
    assert container["linuxParameters"]["capabilities"]["drop"] == ["ALL"]
    assert container["stopTimeout"] == 45
    assert "secrets" not in container
    variables = {each["name"]: each["value"] for each in container["environment"]}
    assert variables["REGISTRY"] == f"s3://{stacks.base['Bucket']}/registry"
    assert container["logConfiguration"]["options"]["awslogs-group"] == "/timberline/timberline-service"


@pytest.mark.offline("moto")
def test_the_load_balancer_asks_for_readiness(stacks: Stacks) -> None:
    """A target that is asked for anything else gets requests that it refuses."""
    client = stacks.aws.client("elbv2")
    made = stacks.resources("service.yaml")
    (group,) = client.describe_target_groups(TargetGroupArns=[made["TargetGroup"]])["TargetGroups"]
    assert (group["HealthCheckPath"], group["TargetType"], group["Port"]) == ("/v2/health/ready", "ip", 8000)
    given = stacks.properties("service.yaml", "TargetGroup")["TargetGroupAttributes"]
    client.modify_target_group_attributes(TargetGroupArn=made["TargetGroup"], Attributes=given)
    given = client.describe_target_group_attributes(TargetGroupArn=made["TargetGroup"])["Attributes"]
    attributes = {each["Key"]: each["Value"] for each in given}
    assert attributes["deregistration_delay.timeout_seconds"] == "40"
    (listener,) = client.describe_listeners(ListenerArns=[made["Listener"]])["Listeners"]
    assert (listener["Protocol"], listener["Port"]) == ("HTTPS", 443)
    assert listener["DefaultActions"][0]["TargetGroupArn"] == made["TargetGroup"]


@pytest.mark.offline("moto")
def test_nothing_but_the_load_balancer_reaches_a_task(stacks: Stacks) -> None:
    """And nobody at all reaches a stage."""
    client = stacks.aws.client("ec2")
    service, stages = stacks.resources("service.yaml"), stacks.resources("stages.yaml")

    def read(group: str) -> Any:
        return client.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]

    (rule,) = read(service["TaskSecurityGroup"])["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpRanges"]) == (8000, 8000, [])
    assert rule["UserIdGroupPairs"][0]["GroupId"] == service["LoadBalancerSecurityGroup"]
    (rule,) = read(service["LoadBalancerSecurityGroup"])["IpPermissions"]
    assert rule["IpRanges"][0]["CidrIp"] == "10.0.0.0/8"
    assert read(stages["SecurityGroup"])["IpPermissions"] == []


@pytest.mark.offline("moto")
@pytest.mark.parametrize(
    ("template", "logical", "use"),
    [
        ("service.yaml", "Task", "Serve"),
        ("stages.yaml", "FetchTask", "Fetch"),
        ("stages.yaml", "TrainTask", "Train"),
        ("stages.yaml", "GateTask", "Gate"),
        ("stages.yaml", "PromoteTask", "Promote"),
    ],
)
def test_a_task_has_the_role_of_its_use(stacks: Stacks, template: str, logical: str, use: str) -> None:
    """With another one it could do what another use may, or nothing. ECS's own API takes the whole task."""
    made = stacks.resources(template)
    task = stacks.aws.client("ecs").register_task_definition(**camel(stacks.properties(template, logical)))
    found = task["taskDefinition"]
    assert found["taskRoleArn"].endswith(f"/{made[f'{use}Role']}")
    execution = "FetchExecutionRole" if use == "Fetch" else "ExecutionRole"
    assert found["executionRoleArn"].endswith(f"/{made[execution]}")
    assert (found["networkMode"], found["requiresCompatibilities"]) == ("awsvpc", ["FARGATE"])


@pytest.mark.offline("moto")
def test_every_alarm_reaches_the_topic(stacks: Stacks) -> None:
    """CloudWatch's own API takes each as the template has it."""
    client, topic = stacks.aws.client("cloudwatch"), stacks.base["AlarmTopic"]
    names = []
    for template in ("service.yaml", "sagemaker.yaml"):
        for logical, resource in read_template(template)["Resources"].items():
            if resource["Type"] == "AWS::CloudWatch::Alarm":
                names.append(f"{template}-{logical}")
                given = stacks.properties(template, logical)
                given["Threshold"] = float(given["Threshold"])  # of TooFewTasks a parameter, which is text
                client.put_metric_alarm(AlarmName=names[-1], **given)
    found = client.describe_alarms()["MetricAlarms"]
    assert {each["AlarmName"] for each in found} == set(names)
    assert len(names) == 4
    assert all(each["AlarmActions"] == [topic] for each in found)


@pytest.mark.offline("moto")
def test_what_is_logged_as_an_error_is_counted_for_its_alarm(stacks: Stacks) -> None:
    """The filter counts into the metric that the alarm watches."""
    given = stacks.properties("service.yaml", "LoggedErrorsFilter")
    stacks.aws.client("logs").put_metric_filter(filterName="errors", **camel(given))
    (kept,) = stacks.aws.client("logs").describe_metric_filters()["metricFilters"]
    (counted,) = kept["metricTransformations"]
    alarm = stacks.properties("service.yaml", "LoggedErrors")
    assert (counted["metricNamespace"], counted["metricName"]) == (alarm["Namespace"], alarm["MetricName"])
    assert kept["logGroupName"] == "/timberline/timberline-service"


@pytest.mark.offline("moto")
def test_ecs_takes_the_service_and_its_scaling(stacks: Stacks) -> None:
    """A deployment that fails is rolled back, and never fewer tasks are ready than before."""
    given = camel(stacks.properties("service.yaml", "Service"))
    network = given["networkConfiguration"]["awsvpcConfiguration"]
    network["subnets"] = network["subnets"].split(",")  # a list of parameters
    service = stacks.aws.client("ecs").create_service(serviceName="tried", desiredCount=2, **given)["service"]
    assert service["launchType"] == "FARGATE"
    deployment = given["deploymentConfiguration"]
    assert deployment["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    assert (deployment["minimumHealthyPercent"], deployment["maximumPercent"]) == (100, 200)
    client = stacks.aws.client("application-autoscaling")
    target = stacks.properties("service.yaml", "ScalableTarget")
    cluster = given["cluster"].rpartition("/")[2]
    place = {
        "ServiceNamespace": target["ServiceNamespace"],
        "ResourceId": f"service/{cluster}/tried",
        "ScalableDimension": target["ScalableDimension"],
    }
    low, high = int(target["MinCapacity"]), int(target["MaxCapacity"])
    client.register_scalable_target(**place, MinCapacity=low, MaxCapacity=high)
    policy = stacks.properties("service.yaml", "ScalingPolicy")
    del policy["ScalingTargetId"]
    client.put_scaling_policy(**place, **policy)
    (found,) = client.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]
    assert found["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 60


@pytest.mark.offline("moto")
def test_the_topic_takes_alarms_and_events_of_the_account_alone(stacks: Stacks) -> None:
    """A policy of its own takes the place of the one that a topic begins with, which let CloudWatch in."""
    policy = stacks.properties("base.yaml", "AlarmsPolicy")["PolicyDocument"]
    client, topic = stacks.aws.client("sns"), stacks.base["AlarmTopic"]
    client.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=json.dumps(policy))
    kept = json.loads(client.get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"])
    (statement,) = kept["Statement"]
    assert statement["Principal"] == {"Service": ["cloudwatch.amazonaws.com", "events.amazonaws.com"]}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    assert statement["Resource"] == topic


@pytest.mark.offline("moto")
def test_an_endpoint_serves_the_archive(stacks: Stacks) -> None:
    """The three resources of SageMaker name each other."""
    client, made = stacks.aws.client("sagemaker"), stacks.resources("sagemaker.yaml")
    endpoint = client.describe_endpoint(EndpointName=made["Endpoint"].rpartition("/")[2])
    config = client.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    (variant,) = config["ProductionVariants"]
    model = client.describe_model(ModelName=variant["ModelName"])
    assert model["PrimaryContainer"]["Image"] == IMAGE
    archive = f"s3://{stacks.base['Bucket']}/sagemaker/forest_cover.tar.gz"
    assert model["PrimaryContainer"]["ModelDataUrl"] == archive
    given = stacks.properties("sagemaker.yaml", "Endpoint") | {"EndpointName": "tried"}
    given["EndpointConfigName"] = endpoint["EndpointConfigName"]
    client.create_endpoint(**given)


def play(stacks: Stacks, **codes: int | None) -> tuple[str, list[str], list[str]]:
    """Run the state machine; each task ends with the code of its stage or 0, and with None never starts.

    moto takes no definition from a stack, and cannot end a task with a code. So every task is a branch here
    that ends as Step Functions reports a task: by its description, as JSON in the cause.

    Returns:
        How it ended, the states that it went through, the subjects of what was published.
    """
    client = stacks.aws.client("stepfunctions")
    given = stacks.properties("stages.yaml", "Release")
    machine = given["Definition"]
    for stage, state in machine["States"].items():
        if state.get("Resource", "").endswith(":ecs:runTask.sync"):
            machine["States"][stage] = make_branch(state, codes.get(stage, 0))
    topic, name = stacks.base["AlarmTopic"], f"play-{time.monotonic_ns()}"
    sns, sqs = stacks.aws.client("sns"), stacks.aws.client("sqs")
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    told = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn)["SubscriptionArn"]
    made = client.create_state_machine(name=name, definition=json.dumps(machine), roleArn=given["RoleArn"])
    run = client.start_execution(stateMachineArn=made["stateMachineArn"])["executionArn"]
    deadline = time.monotonic() + DEADLINE_S
    while (status := client.describe_execution(executionArn=run)["status"]) == "RUNNING":
        assert time.monotonic() < deadline
    events = client.get_execution_history(executionArn=run)["events"]
    entered = [
        each["stateEnteredEventDetails"]["name"] for each in events if "stateEnteredEventDetails" in each
    ]
    messages = sqs.receive_message(QueueUrl=queue).get("Messages", [])
    sns.unsubscribe(SubscriptionArn=told)
    subjects = [json.loads(each["Body"])["Subject"] for each in messages]
    return status, [each for each in entered if each != "ran"], subjects


def make_branch(state: dict[str, Any], code: int | None) -> dict[str, Any]:
    """A state with the task's ways out that ends as a task with this exit code."""
    container = {"Name": "stage", **({} if code is None else {"ExitCode": code})}
    cause = json.dumps({"Containers": [container], "StoppedReason": "Essential container in task exited"})
    ended = {"Type": "Pass", "End": True} if code == 0 else {"Type": "Fail", "Error": "Ended", "Cause": cause}
    kept: dict[str, Any] = {key: state[key] for key in ("Next", "End", "Catch", "ResultPath") if key in state}
    return {**kept, "Type": "Parallel", "Branches": [{"StartAt": "ran", "States": {"ran": ended}}]}


STAGES = ["fetch", "etl", "train", "evaluate", "export", "gate", "promote"]


@pytest.fixture
def playing(stacks: Stacks) -> Stacks:
    """moto runs state machines, which it does not by itself."""
    settings = json.dumps({"stepfunctions": {"execute_state_machine": True}}).encode()
    url = f"{stacks.aws.endpoint}/moto-api/config"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, settings, {"Content-Type": "application/json"}, method="POST")
    with direct.open(request, timeout=30):
        return stacks


@pytest.mark.offline("moto")
def test_a_release_is_its_stages_in_their_order(playing: Stacks) -> None:
    """Each is given what the one before it left."""
    assert play(playing) == ("SUCCEEDED", STAGES, [])


@pytest.mark.offline("moto")
@pytest.mark.parametrize(("code", "outcome"), [(1, "BLOCK"), (2, "INCONCLUSIVE")])
def test_the_gates_no_is_told_and_promotes_nothing(playing: Stacks, code: int, outcome: str) -> None:
    """It is an answer and no failure: nobody is to be woken, and production stays."""
    status, states, subjects = play(playing, gate=code)
    assert status == "SUCCEEDED"
    assert states[-1] == outcome
    assert "promote" not in states
    assert subjects == [f"forest_cover: {outcome}"]


@pytest.mark.offline("moto")
@pytest.mark.parametrize(
    "codes", [{"gate": 3}, {"gate": 137}, {"gate": None}, {"fetch": 3}, {"etl": 1}, {"export": 1}]
)
def test_what_else_ends_a_stage_fails_the_release(playing: Stacks, codes: dict[str, int | None]) -> None:
    """The rule of failed executions tells of it, whoever started it."""
    status, states, subjects = play(playing, **codes)
    assert status == "FAILED"
    assert "promote" not in states
    assert subjects == []


@pytest.mark.offline("moto")
def test_rules_lead_to_the_topic_and_to_the_release(stacks: Stacks) -> None:
    """An alarm that reaches nobody is worse than none."""
    client = stacks.aws.client("events")
    targets = {
        rule["Name"].split("-")[2]: client.list_targets_by_rule(Rule=rule["Name"])["Targets"][0]
        for rule in client.list_rules()["Rules"]
    }
    topic = stacks.base["AlarmTopic"]
    made = stacks.resources("stages.yaml")
    assert {name: each["Arn"] for name, each in targets.items()} == {
        "DeploymentFailed": topic,
        "ReleaseFailed": topic,
        "ReleaseSchedule": made["Release"],
    }
    assert made["ScheduleRole"] in targets["ReleaseSchedule"]["RoleArn"]


@pytest.mark.offline("moto")
def test_a_kaggle_token_reaches_fetch_alone(stacks: Stacks) -> None:
    """It is somebody's own account."""
    secret = stacks.aws.client("secretsmanager").create_secret(Name="kaggle", SecretString="a-token")["ARN"]
    stacks.aws.deploy("other-stages", "stages.yaml", **stacks.parameters["stages.yaml"], KaggleSecret=secret)
    made = stacks.aws.list_resources("other-stages")
    for use in ("Fetch", "Train", "Gate", "Promote"):
        task = stacks.aws.client("ecs").describe_task_definition(taskDefinition=made[f"{use}Task"])
        (container,) = task["taskDefinition"]["containerDefinitions"]
        given = [{"name": "KAGGLE_API_TOKEN", "valueFrom": secret}] if use == "Fetch" else None
        assert container.get("secrets") == given
    allowed = [
        name
        for name, role in made.items()
        if name.endswith("Role") and "kaggle" in stacks.aws.read_policies(role)
    ]
    assert allowed == ["FetchExecutionRole"]


@pytest.mark.offline("moto")
def test_another_image_is_another_task_and_an_end_leaves_the_bucket(stacks: Stacks) -> None:
    """A release of the program is an update of the stack; the registry outlives all of them."""
    before = stacks.find_task()
    stacks.aws.deploy(
        "timberline-service", "service.yaml", **stacks.parameters["service.yaml"] | {"Image": OTHER_IMAGE}
    )
    # Of an updated task moto keeps the family alone.
    assert stacks.find_task()["revision"] > before["revision"]
    client = stacks.aws.client("cloudformation")
    for name in reversed(["base.yaml", *stacks.parameters]):
        client.delete_stack(StackName=stacks.stack(name))
    left = {each["StackName"] for each in client.describe_stacks()["Stacks"]}
    assert not left & {stacks.stack(name) for name in list_templates()}
    assert (
        stacks.aws.client("logs").describe_log_groups(logGroupNamePrefix="/timberline/timberline-")[
            "logGroups"
        ]
        == []
    )
    assert stacks.aws.client("s3").list_buckets()["Buckets"][0]["Name"] == stacks.base["Bucket"]
