//! What every store of channels keeps.

use domain::channel::{Breaker, ChannelMarks, Connector, ConnectorKind, ConnectorStore, Link, Links, Mark, Outside};
use domain::fault::PortFault;
use domain::id::{ChannelName, ConversationId, MessageId, TenantId};
use domain::seal::Sealed;
use time::Duration;

use crate::sample::{self, NOW};

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn conversation(n: u32) -> ConversationId {
    ConversationId::parse(format!("00000000-0000-4000-8000-{n:012x}")).unwrap()
}

/// A connector of tenant `t1` that leads to Lark.
#[must_use]
pub fn connector(name: &str) -> Connector {
    Connector {
        tenant_id: TenantId::parse("t1").unwrap(),
        name: channel(name),
        connects: ConnectorKind::Lark { app_id: sample::app_id("cli_a"), tenant_key: None, speaker: None },
        created_at: NOW,
        created_by: "ann".to_owned(),
        updated_at: NOW,
        updated_by: "ann".to_owned(),
        version: 1,
    }
}

/// Connectors: created once, changed and deleted only by who saw the last version; how they do is kept beside, and goes with them.
pub async fn connectors(store: &dyn ConnectorStore) {
    let one = connector("lark");
    assert_eq!(store.view(&one.tenant_id, &one.name).await.unwrap(), None);
    store.put(&one).await.unwrap();
    assert!(matches!(store.put(&one).await, Err(PortFault::Conflict { .. })), "created twice");
    let view = store.view(&one.tenant_id, &one.name).await.unwrap().unwrap();
    assert_eq!((&view.connector, &view.breaker), (&one, &Breaker::default()));

    let first = Breaker::default().failed(NOW);
    store.note(&one, &first).await.unwrap();
    assert!(matches!(store.note(&one, &first).await, Err(PortFault::Conflict { .. })), "noted from a stale version");
    let tripped = (0..5).fold(first, |breaker, _| breaker.failed(NOW));
    let tripped = Breaker { version: 2, ..tripped };
    store.note(&one, &tripped).await.unwrap();
    assert_eq!(store.view(&one.tenant_id, &one.name).await.unwrap().unwrap().breaker, tripped);

    let url = "https://example.com/钩子".parse().unwrap();
    let secret = Sealed("sealed".to_owned());
    let changed = Connector { connects: ConnectorKind::Webhook { url, secret }, version: 2, ..one.clone() };
    store.put(&changed).await.unwrap();
    assert!(matches!(store.put(&changed).await, Err(PortFault::Conflict { .. })), "changed from a stale version");
    let other = Connector { tenant_id: TenantId::parse("t0").unwrap(), ..connector("lark") };
    store.put(&other).await.unwrap();
    store.put(&connector("erp")).await.unwrap();
    let names =
        |all: Vec<Connector>| -> Vec<String> { all.iter().map(|it| format!("{}/{}", it.tenant_id, it.name)).collect() };
    assert_eq!(names(store.list(None).await.unwrap()), ["t0/lark", "t1/erp", "t1/lark"]);
    assert_eq!(names(store.list(Some(&one.tenant_id)).await.unwrap()), ["t1/erp", "t1/lark"]);

    assert!(matches!(store.delete(&one).await, Err(PortFault::Conflict { .. })), "deleted from a stale version");
    store.delete(&changed).await.unwrap();
    store.delete(&changed).await.unwrap();
    assert_eq!(store.view(&one.tenant_id, &one.name).await.unwrap(), None);
    store.put(&one).await.unwrap();
    let fresh = store.view(&one.tenant_id, &one.name).await.unwrap().unwrap();
    assert_eq!(fresh.breaker, Breaker::default(), "a new one has no history");
}

/// Marks move forward, by who saw where they were; names of the outside lead back.
pub async fn marks(store: &dyn ChannelMarks) {
    let (id, lark, erp) = (conversation(1), channel("lark"), channel("erp"));
    assert_eq!(store.mark(&id, &lark).await.unwrap(), None);
    assert!(!store.read(&id, &lark, 1).await.unwrap(), "nothing has left");
    assert_eq!(store.mark(&id, &lark).await.unwrap(), None);
    store.advance(&id, &lark, 0, 3).await.unwrap();
    for stale in [0, 2, 4] {
        let moved = store.advance(&id, &lark, stale, 9).await;
        assert!(matches!(moved, Err(PortFault::Conflict { .. })), "{stale}");
    }
    store.advance(&id, &lark, 3, 7).await.unwrap();
    assert_eq!(store.mark(&id, &lark).await.unwrap(), Some(Mark { sent: 7, read: 0 }));
    assert_eq!(store.mark(&id, &erp).await.unwrap(), None, "each channel has its own");

    assert!(store.read(&id, &lark, 5).await.unwrap());
    for earlier in [5, 4] {
        assert!(!store.read(&id, &lark, earlier).await.unwrap(), "{earlier}");
    }
    assert_eq!(store.mark(&id, &lark).await.unwrap(), Some(Mark { sent: 7, read: 5 }));

    let (app_id, message_id) = (sample::app_id("cli_a"), MessageId::parse("om_1").unwrap());
    assert_eq!(store.outside(&app_id, &message_id).await.unwrap(), None);
    let outside =
        Outside { app_id: app_id.clone(), message_id: message_id.clone(), conversation_id: id, channel: lark, seq: 3 };
    for _ in 0..2 {
        store.remember(&outside, NOW + Duration::days(30)).await.unwrap();
    }
    assert_eq!(store.outside(&app_id, &message_id).await.unwrap(), Some(outside));
    assert_eq!(store.outside(&sample::app_id("cli_b"), &message_id).await.unwrap(), None);
}

/// A place outside belongs to the conversation that linked it first.
pub async fn links(store: &dyn Links) {
    let link = |n: u32, name: &str| Link {
        app_id: sample::app_id("cli_a"),
        address: "oc_1".to_owned(),
        conversation_id: conversation(n),
        channel: channel(name),
    };
    assert_eq!(store.linked(&sample::app_id("cli_a"), "oc_1").await.unwrap(), None);
    assert!(store.link(&link(1, "lark")).await.unwrap());
    assert!(store.link(&link(1, "lark")).await.unwrap(), "again");
    for other in [link(2, "lark"), link(1, "erp")] {
        assert!(!store.link(&other).await.unwrap(), "{other:?}");
    }
    assert_eq!(store.linked(&sample::app_id("cli_a"), "oc_1").await.unwrap(), Some(link(1, "lark")));
    assert_eq!(store.linked(&sample::app_id("cli_b"), "oc_1").await.unwrap(), None);
    assert!(store.link(&Link { app_id: sample::app_id("cli_b"), ..link(2, "lark") }).await.unwrap());
}
