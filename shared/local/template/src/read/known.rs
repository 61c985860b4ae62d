//! Resource types that change nothing on one machine, and why.

const WITHOUT_EFFECT: &[(&str, &[&str])] = &[
    (
        "rights are not checked locally",
        &[
            "AWS::IAM::Group",
            "AWS::IAM::InstanceProfile",
            "AWS::IAM::ManagedPolicy",
            "AWS::IAM::OIDCProvider",
            "AWS::IAM::Policy",
            "AWS::IAM::Role",
            "AWS::IAM::RolePolicy",
            "AWS::IAM::ServiceLinkedRole",
            "AWS::IAM::User",
            "AWS::IAM::UserPolicy",
            "AWS::Events::EventBusPolicy",
            "AWS::Lambda::Permission",
            "AWS::S3::BucketPolicy",
            "AWS::SQS::QueueInlinePolicy",
            "AWS::SQS::QueuePolicy",
            "AWS::Serverless::Connector",
        ],
    ),
    (
        "logs go to standard error, metrics and traces nowhere",
        &[
            "AWS::ApplicationInsights::Application",
            "AWS::CloudWatch::Alarm",
            "AWS::CloudWatch::AnomalyDetector",
            "AWS::CloudWatch::CompositeAlarm",
            "AWS::CloudWatch::Dashboard",
            "AWS::CloudWatch::InsightRule",
            "AWS::CloudWatch::MetricStream",
            "AWS::Logs::LogGroup",
            "AWS::Logs::LogStream",
            "AWS::Logs::MetricFilter",
            "AWS::Logs::QueryDefinition",
            "AWS::Logs::ResourcePolicy",
            "AWS::XRay::Group",
            "AWS::XRay::SamplingRule",
        ],
    ),
    (
        "local endpoints have no domain names, certificates or firewalls",
        &[
            "AWS::ApiGateway::Account",
            "AWS::ApiGatewayV2::ApiMapping",
            "AWS::ApiGatewayV2::DomainName",
            "AWS::CertificateManager::Certificate",
            "AWS::Route53::HostedZone",
            "AWS::Route53::RecordSet",
            "AWS::Route53::RecordSetGroup",
            "AWS::WAFv2::WebACL",
            "AWS::WAFv2::WebACLAssociation",
        ],
    ),
    ("readers find the lake's tables by their folders", &["AWS::Glue::Database", "AWS::Glue::Table"]),
    ("schedules have no groups locally", &["AWS::Scheduler::ScheduleGroup"]),
    ("events are not archived locally", &["AWS::Events::Archive"]),
    (
        "the account is not managed locally",
        &[
            "AWS::ApplicationAutoScaling::ScalableTarget",
            "AWS::ApplicationAutoScaling::ScalingPolicy",
            "AWS::Backup::BackupPlan",
            "AWS::Backup::BackupSelection",
            "AWS::Backup::BackupVault",
            "AWS::Budgets::Budget",
            "AWS::CDK::Metadata",
            "AWS::CloudFormation::WaitConditionHandle",
            "AWS::CodeDeploy::Application",
            "AWS::CodeDeploy::DeploymentGroup",
            "AWS::ResourceGroups::Group",
            "AWS::ServiceCatalogAppRegistry::Application",
        ],
    ),
];

pub(super) fn reason_without_effect(type_name: &str) -> Option<&'static str> {
    WITHOUT_EFFECT.iter().find(|(_, types)| types.contains(&type_name)).map(|(reason, _)| *reason)
}
