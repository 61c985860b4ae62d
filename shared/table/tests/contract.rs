//! The table keeps the contract of its ports, against a real DynamoDB endpoint.
#![expect(clippy::unwrap_used, reason = "what does not run ends the test")]

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType,
};
use domain::fault::PortFault;
use table::{Table, TableLimiter, TableMessages};
use testkit::{
    contract, contract_channels, contract_chat, contract_lake, contract_sockets, contract_tokens, contract_uploads,
};

/// A table like the template's, in an endpoint of this test's own.
async fn table() -> Table {
    client_and_table().await.1
}

async fn client_and_table() -> (Client, Table) {
    let database = dynoxide::Database::memory().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(dynoxide::server::serve_on(listener, database));

    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::for_tests())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .http_client(lambda_kit::aws::http_client())
        .build();
    let client = Client::from_conf(config);
    let attribute = |name: &str, kind: ScalarAttributeType| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap()
    };
    let key =
        |name: &str, kind: KeyType| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    let index = GlobalSecondaryIndex::builder()
        .index_name("by_time")
        .key_schema(key("kind", KeyType::Hash))
        .key_schema(key("at", KeyType::Range))
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
        .build()
        .unwrap();
    client
        .create_table()
        .table_name("lark")
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute("pk", ScalarAttributeType::S))
        .attribute_definitions(attribute("sk", ScalarAttributeType::S))
        .attribute_definitions(attribute("kind", ScalarAttributeType::S))
        .attribute_definitions(attribute("at", ScalarAttributeType::N))
        .key_schema(key("pk", KeyType::Hash))
        .key_schema(key("sk", KeyType::Range))
        .global_secondary_indexes(index)
        .send()
        .await
        .unwrap();
    (client.clone(), Table::new(client, "lark"))
}

#[tokio::test]
async fn keeps_the_contract_of_apps() {
    contract::apps(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_the_inbox() {
    contract::inbox(&table().await).await;
    contract::open_entries(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_sessions() {
    contract::sessions(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_user_tokens() {
    contract_tokens::user_tokens(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_tenant_tokens() {
    contract_tokens::tenant_tokens(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_asking() {
    contract_tokens::asking(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_bookmarks() {
    contract_tokens::bookmarks(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_clients() {
    contract::clients(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_families() {
    contract::families(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_tickets() {
    contract_sockets::tickets(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_places() {
    contract_sockets::slots(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_push_states() {
    contract_sockets::push_states(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_limits() {
    let table = table().await;
    let [one, two, three] = [(); 3].map(|()| TableLimiter::new(table.clone()));
    contract::limits(&[&one, &two, &three]).await;
}

#[tokio::test]
async fn keeps_the_contracts_of_channels() {
    contract_channels::connectors(&table().await).await;
    contract_channels::marks(&table().await).await;
    contract_channels::links(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_sources() {
    contract_lake::sources(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_the_gate() {
    contract_lake::gate(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_conversations() {
    contract_chat::conversations(&table().await).await;
}

#[tokio::test]
async fn keeps_the_contract_of_messages() {
    let table = table().await;
    let [one, two, three] = [(); 3].map(|()| TableMessages::new(table.clone()));
    contract_chat::messages(&table, &[&one, &two, &three]).await;
}

#[tokio::test]
async fn keeps_the_contract_of_reading() {
    let table = table().await;
    contract_chat::reading(&table, &TableMessages::new(table.clone())).await;
}

#[tokio::test]
async fn a_probe_of_a_missing_table_fails() {
    let (client, table) = client_and_table().await;
    table.probe().await.unwrap();
    assert!(matches!(Table::new(client, "missing").probe().await, Err(PortFault::Broken { .. })));
}

#[tokio::test]
async fn keeps_the_contract_of_uploads() {
    contract_uploads::uploads(&table().await).await;
}
