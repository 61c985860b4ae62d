//! Tenant tokens over ports in memory: one fetch for any number of callers, and none that is stale.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domain::app::{App, AppKind, AppSecrets, OpenApp};
use domain::authorize::VendorFault;
use domain::clock::Clock as _;
use domain::seal::Sealed;
use domain::tenant_token::{Mint, Minted, OWN_TENANT, TenantToken, TenantTokenStore, TenantTokens, keep_ticket};
use futures_util::future::join_all;
use secrecy::{ExposeSecret as _, SecretString};
use testkit::{ManualClock, MemoryTable, PlainSealer, sample};
use time::Duration;

/// A vendor that hands out `t1`, `t2` .., each for two hours.
#[derive(Default)]
struct Vendor {
    fetches: AtomicU32,
    refuses: Mutex<Option<VendorFault>>,
    tickets: Mutex<Vec<Option<String>>>,
}

#[async_trait]
impl Mint for Vendor {
    async fn tenant_token(&self, _: &OpenApp, _: &str, ticket: Option<&SecretString>) -> Result<Minted, VendorFault> {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let n = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
        self.tickets.lock().unwrap().push(ticket.map(|ticket| ticket.expose_secret().to_owned()));
        if let Some(fault) = self.refuses.lock().unwrap().take() {
            return Err(fault);
        }
        Ok(Minted { token: format!("t{n}").into(), expires_in: Duration::hours(2) })
    }
}

struct World {
    table: Arc<MemoryTable>,
    vendor: Arc<Vendor>,
    clock: Arc<ManualClock>,
    processes: Vec<TenantTokens>,
    app: OpenApp,
}

fn world(processes: usize) -> World {
    let (table, vendor) = (Arc::new(MemoryTable::default()), Arc::new(Vendor::default()));
    let clock = Arc::new(ManualClock::default());
    let process = || TenantTokens::new(table.clone(), Arc::new(PlainSealer), vendor.clone(), clock.clone());
    let processes = (0..processes).map(|_| process()).collect();
    let secrets = AppSecrets { app_secret: "s".into(), encrypt_key: None, verification_token: "v".into() };
    World { table, vendor, clock, processes, app: OpenApp { app: sample::app("cli_a"), secrets } }
}

impl World {
    async fn get(&self, process: usize, rejected: Option<&str>) -> Result<String, VendorFault> {
        let rejected = rejected.map(SecretString::from);
        let token = self.processes[process].get(&self.app, OWN_TENANT, rejected.as_ref()).await?;
        Ok(token.expose_secret().to_owned())
    }

    fn fetches(&self) -> u32 {
        self.vendor.fetches.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_cold_callers_in_four_processes_cause_one_fetch() {
    let world = world(4);
    let tokens = join_all((0..100).map(|n| world.get(n % 4, None))).await;
    assert!(tokens.into_iter().all(|token| token.unwrap() == "t1"));
    assert_eq!(world.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_replaced_twenty_minutes_ahead_while_the_others_go_on_with_it() {
    let world = world(3);
    assert_eq!(world.get(0, None).await.unwrap(), "t1");
    world.clock.advance(Duration::minutes(99));
    assert_eq!((world.get(0, None).await.unwrap().as_str(), world.fetches()), ("t1", 1));
    world.clock.advance(Duration::minutes(2));
    let (first, second) = tokio::join!(world.get(0, None), world.get(1, None));
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("t2", "t1"), "the second one does not wait");
    assert_eq!((world.get(2, None).await.unwrap().as_str(), world.fetches()), ("t2", 2), "from the store");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_once_whoever_finds_out() {
    let world = world(4);
    world.get(0, None).await.unwrap();
    let tokens = join_all((0..20).map(|n| world.get(n % 4, Some("t1")))).await;
    assert!(tokens.into_iter().all(|token| token.unwrap() == "t2"));
    assert_eq!(world.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn wrong_credentials_are_final_at_once_and_hold_up_nobody() {
    let world = world(2);
    *world.vendor.refuses.lock().unwrap() =
        Some(VendorFault::Misconfigured { code: 10015, message: "wrong secret".to_owned() });
    let began = world.clock.now();
    assert!(matches!(world.get(0, None).await, Err(VendorFault::Misconfigured { code: 10015, .. })));
    assert_eq!(world.fetches(), 1, "they are not tried again");
    assert_eq!(world.get(1, None).await.unwrap(), "t2");
    assert!(world.clock.now() - began < Duration::seconds(2), "the lease was given back");
}

#[tokio::test(start_paused = true)]
async fn a_fetcher_that_died_is_waited_for_no_longer_than_its_lease() {
    let world = world(1);
    let (app_id, now) = (&world.app.app.app_id, world.clock.now());
    world.table.lease((app_id, OWN_TENANT), 0, now, now + Duration::seconds(10)).await.unwrap();
    assert_eq!(world.get(0, None).await.unwrap(), "t1");
    assert!(world.clock.now() - now >= Duration::seconds(10));
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_that_does_not_open_is_replaced() {
    let world = world(1);
    let app_id = world.app.app.app_id.clone();
    let (tenant_key, sealed) = (OWN_TENANT.to_owned(), Sealed("[]|swapped".to_owned()));
    let expires_at = world.clock.now() + Duration::hours(2);
    world
        .table
        .keep(&TenantToken { app_id: app_id.clone(), tenant_key, sealed, expires_at, version: 1 })
        .await
        .unwrap();
    assert_eq!(world.get(0, None).await.unwrap(), "t1");
    let stored = TenantTokenStore::get(world.table.as_ref(), &app_id, OWN_TENANT).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.sealed.0.contains("t1")), (2, true));
}

#[tokio::test(start_paused = true)]
async fn a_store_app_shows_its_newest_ticket() {
    let world = world(1);
    let app = App { kind: AppKind::Store, ..world.app.app.clone() };
    let world = World { app: OpenApp { app, ..world.app }, ..world };
    world.get(0, None).await.unwrap();
    let (table, app_id, now) = (world.table.as_ref(), &world.app.app.app_id, world.clock.now());
    keep_ticket(table, &PlainSealer, app_id, &"new".into(), now).await.unwrap();
    keep_ticket(table, &PlainSealer, app_id, &"old".into(), now - Duration::HOUR).await.unwrap();
    world.get(0, Some("t1")).await.unwrap();
    assert_eq!(*world.vendor.tickets.lock().unwrap(), [None, Some("new".to_owned())]);
}
