"""Translates template.yaml as CloudFormation would see it, so that cfn-lint can judge what is really deployed."""

import json
import sys

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse


class ManagedPolicies:
    """The translator asks for the ARNs of AWS's managed policies; their names are all that it needs here."""

    NAMES = (
        "AWSLambdaBasicExecutionRole",
        "AWSLambdaDynamoDBExecutionRole",
        "AWSLambdaSQSQueueExecutionRole",
        "AWSXRayDaemonWriteAccess",
        "AWSXrayWriteOnlyAccess",
    )

    def load(self):
        return {name: f"arn:aws:iam::aws:policy/service-role/{name}" for name in self.NAMES}


def main():
    source, target = sys.argv[1:3]
    with open(source, encoding="utf-8") as file:
        template = yaml_parse(file.read())
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    with open(target, "w", encoding="utf-8") as file:
        json.dump(transform(template, {}, ManagedPolicies()), file, indent=1)


main()
