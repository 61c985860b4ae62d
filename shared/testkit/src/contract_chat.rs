//! What every adapter of the chat's ports must do. Each function expects an empty store.

use std::collections::BTreeSet;

use domain::chat::{
    Channel, ChatFault, Committed, Conversation, ConversationStore, Created, Draft, Message, MessageStatus,
    MessageStore, Payload, Preview, ReadMark,
};
use domain::id::{ChannelName, TenantId};
use futures_util::future::join_all;
use time::Duration;

use crate::sample::{self, NOW, conversation, conversation_id, draft, user_id};

/// Conversations: one for each pair, whole for each member, and nobody else's.
pub async fn conversations(store: &dyn ConversationStore) {
    assert_eq!(store.conversation(&conversation_id(1)).await.unwrap(), None);
    let mut pair = conversation(1, &["ann", "bob"]);
    pair.channels.push(Channel { name: ChannelName::parse("lark").unwrap(), address: "cli_a/oc_1 🏢".to_owned() });
    assert_eq!(store.create(&pair).await.unwrap(), Created::New);
    assert_eq!(store.conversation(&conversation_id(1)).await.unwrap(), Some(pair.clone()));
    let again = conversation(2, &["bob", "ann"]);
    assert_eq!(
        store.create(&again).await.unwrap(),
        Created::Before(Box::new(pair.clone())),
        "whoever asks, and in any order"
    );
    assert_eq!(store.conversation(&conversation_id(2)).await.unwrap(), None);

    let other = TenantId::parse("other").unwrap();
    let abroad = Conversation { tenant_id: other.clone(), ..conversation(3, &["ann", "bob"]) };
    assert_eq!(store.create(&abroad).await.unwrap(), Created::New, "people of another tenant are others");
    for n in [4, 5] {
        let group = conversation(n, &["ann", "bob", "cy"]);
        assert_eq!(store.create(&group).await.unwrap(), Created::New, "the same people may have several groups");
    }
    assert_eq!(joined(store, &pair.tenant_id, "ann").await, [1, 4, 5]);
    assert_eq!(joined(store, &pair.tenant_id, "cy").await, [4, 5]);
    assert_eq!(joined(store, &other, "ann").await, [3]);
    assert_eq!(joined(store, &other, "an").await, [0; 0], "a name is not the beginning of another");

    racing_pairs(store).await;
    many(store).await;
}

/// Of many callers who open the same private conversation, one opens it, and all get that one.
async fn racing_pairs(store: &dyn ConversationStore) {
    let rivals: Vec<Conversation> = (0..20).map(|n| conversation(100 + n, &["dee", "eli"])).collect();
    let answers = join_all(rivals.iter().map(|rival| store.create(rival))).await;
    let given = rivals.iter().zip(answers).map(|(rival, answer)| match answer.unwrap() {
        Created::New => (true, rival.conversation_id.clone()),
        Created::Before(before) => (false, before.conversation_id),
    });
    let (new, ids): (Vec<bool>, BTreeSet<_>) = given.unzip();
    assert_eq!((new.iter().filter(|new| **new).count(), ids.len()), (1, 1), "{ids:?}");
    assert_eq!(joined(store, &sample::tenant_id(), "dee").await.len(), 1);
}

/// The largest group, and more conversations of one person than a batch holds.
async fn many(store: &dyn ConversationStore) {
    let names: Vec<String> = (0..100).map(|n| format!("user-{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let group = conversation(200, &names);
    assert_eq!(store.create(&group).await.unwrap(), Created::New);
    assert_eq!(store.conversation(&group.conversation_id).await.unwrap(), Some(group.clone()));
    for name in &names {
        assert_eq!(joined(store, &group.tenant_id, name).await, [200], "{name}");
    }
    let progress = store.progress(&group).await.unwrap();
    assert_eq!((progress.read.len(), progress.read.values().sum::<u64>()), (100, 0));

    let others: Vec<Conversation> =
        (0..230).map(|n| conversation(1_000 + n, &["fay", names[n as usize % 100], "gus"])).collect();
    for some in others.chunks(10) {
        join_all(some.iter().map(|it| store.create(it))).await.into_iter().for_each(|created| drop(created.unwrap()));
    }
    let mut expected: Vec<u32> = (1_000..1_230).collect();
    expected.sort_unstable();
    assert_eq!(joined(store, &group.tenant_id, "fay").await, expected);
}

async fn joined(store: &dyn ConversationStore, tenant_id: &TenantId, user: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    loop {
        let (page, total) = recent(store, tenant_id, user, ids.len(), 100).await;
        ids.extend(page);
        if ids.len() >= total {
            ids.sort_unstable();
            return ids;
        }
    }
}

async fn recent(
    store: &dyn ConversationStore,
    tenant_id: &TenantId,
    user: &str,
    skip: usize,
    take: usize,
) -> (Vec<u32>, usize) {
    let recent = store.recent(tenant_id, &user_id(user), skip, take).await.unwrap();
    let number = |id: &str| u32::from_str_radix(&id[24..], 16).unwrap();
    (recent.page.iter().map(|it| number(it.conversation.conversation_id.as_str())).collect(), recent.total)
}

/// Where something was said last stands first, in a short list and in a long one, and pages follow one another.
async fn standings(conversations: &dyn ConversationStore, store: &dyn MessageStore) {
    let tenant = sample::tenant_id();
    for (user, first, count) in [("hal", 2_000, 7), ("ida", 3_000, 205)] {
        let own: Vec<Conversation> =
            (first..first + count).map(|n| conversation(n, &[user, "joe", &format!("user-{n}")])).collect();
        for some in own.chunks(10) {
            let created = join_all(some.iter().map(|it| conversations.create(it))).await;
            created.into_iter().for_each(|created| drop(created.unwrap()));
        }
        let spoken: Vec<u32> = [5, 0, 3].map(|n| first + n).to_vec();
        for (n, spoken) in spoken.iter().rev().enumerate() {
            let said = draft(&own[(spoken - first) as usize], "joe", first + n as u32, "hi");
            store.commit(&said, NOW + time::Duration::seconds(n as i64 + 1)).await.unwrap();
        }
        let silent = (first..first + count).filter(|n| !spoken.contains(n));
        let expected: Vec<u32> = spoken.iter().copied().chain(silent).collect();
        for (skip, take) in [(0, 2), (0, 100), (2, 3), (count as usize - 1, 100), (count as usize, 1), (9_999, 1)] {
            let part: Vec<u32> = expected.iter().copied().skip(skip).take(take).collect();
            assert_eq!(recent(conversations, &tenant, user, skip, take).await, (part, count as usize), "{user} {skip}");
        }
    }
}

/// Messages: numbered from 1 without a gap, each once however often it is sent, by members only. Every store of `stores` is a process of
/// its own over the same conversations.
pub async fn messages(conversations: &dyn ConversationStore, stores: &[&dyn MessageStore]) {
    let store = stores[0];
    let pair = conversation(1, &["ann", "bob"]);
    let hello = draft(&pair, "ann", 1, "你好 🙂");
    assert!(matches!(store.commit(&hello, NOW).await, Err(ChatFault::NoConversation)));
    conversations.create(&pair).await.unwrap();

    let Committed::New(first) = store.commit(&hello, NOW).await.unwrap() else { panic!("it is new") };
    assert_eq!(*first, hello.next(Some(&pair), NOW).unwrap());
    let later = NOW + Duration::hours(1);
    for store in stores {
        assert_eq!(store.commit(&hello, later).await.unwrap(), Committed::Before { seq: 1 });
        let other = draft(&pair, "ann", 1, "another");
        assert!(matches!(store.commit(&other, later).await, Err(ChatFault::OtherMessage)));
    }
    let same_name = draft(&pair, "bob", 1, "another");
    assert!(matches!(store.commit(&same_name, later).await.unwrap(), Committed::New(_)), "a name is its sender's own");

    let stored = conversations.conversation(&pair.conversation_id).await.unwrap().unwrap();
    let last = same_name.next(Some(&Conversation { seq: 1, ..pair.clone() }), later).unwrap();
    assert_eq!((stored.seq, stored.last_message.clone()), (2, Some(Preview::of(&last))));
    assert_eq!(stored.members, pair.members);
    assert_eq!([stored.unread(&user_id("ann"), 0), stored.unread(&user_id("bob"), 0)], [1, 0]);

    for store in stores {
        assert!(matches!(store.commit(&draft(&pair, "eve", 2, "hi"), NOW).await, Err(ChatFault::NotAMember)));
        let elsewhere = Draft { tenant_id: TenantId::parse("other").unwrap(), ..draft(&pair, "ann", 3, "hi") };
        assert!(matches!(store.commit(&elsewhere, NOW).await, Err(ChatFault::NoConversation)));
    }
    assert_eq!(
        conversations.conversation(&pair.conversation_id).await.unwrap(),
        Some(stored),
        "nothing was left behind"
    );

    taking_turns(conversations, stores).await;
    pages(conversations, store).await;
    standings(conversations, store).await;
    one_message_from_many(conversations, stores).await;
}

/// Processes that know what they saw last, which is not what is there.
async fn taking_turns(conversations: &dyn ConversationStore, stores: &[&dyn MessageStore]) {
    let pair = conversation(2, &["ann", "cy"]);
    conversations.create(&pair).await.unwrap();
    let mut expected = 0;
    for n in [0, 0, 1, 0, 1, 1, 0] {
        let store = stores[n % stores.len()];
        expected += 1;
        let draft = draft(&pair, "ann", 100 + expected, "turn");
        let Committed::New(message) = store.commit(&draft, NOW).await.unwrap() else { panic!("it is new") };
        assert_eq!(message.seq, u64::from(expected));
    }
}

async fn pages(conversations: &dyn ConversationStore, store: &dyn MessageStore) {
    let pair = conversation(3, &["ann", "dee"]);
    let id = &pair.conversation_id;
    conversations.create(&pair).await.unwrap();
    assert_eq!(store.range(id, 0, 10).await.unwrap(), []);
    assert_eq!(store.range_back(id, u64::MAX, 10).await.unwrap(), []);
    let mut known = pair.clone();
    let mut all: Vec<Message> = Vec::new();
    for n in 1..=12 {
        let draft = draft(&pair, "ann", 200 + n, &format!("第 {n} 条 🙂"));
        let expected = draft.next(Some(&known), NOW).unwrap();
        known.end_with(&expected);
        assert_eq!(store.commit(&draft, NOW).await.unwrap(), Committed::New(Box::new(expected.clone())));
        all.push(expected);
    }
    assert_eq!(store.range(id, 0, 100).await.unwrap(), all);
    assert_eq!(store.range(id, 9, 2).await.unwrap(), all[9..11]);
    assert_eq!(store.range(id, 12, 2).await.unwrap(), []);
    let back = |from: usize, to: usize| all[from..to].iter().rev().cloned().collect::<Vec<_>>();
    assert_eq!(store.range_back(id, u64::MAX, 3).await.unwrap(), back(9, 12));
    assert_eq!(store.range_back(id, 10, 100).await.unwrap(), back(0, 9));
    assert_eq!(store.range_back(id, 1, 100).await.unwrap(), []);

    let names = ["erp", "lark"].map(|name| ChannelName::parse(name).unwrap());
    for name in [&names[0], &names[1], &names[0]] {
        store.refuse(id, 7, name).await.unwrap();
    }
    all[6].refused = names.into();
    assert_eq!(store.range(id, 0, 100).await.unwrap(), all);
    assert!(store.refuse(id, 13, &ChannelName::parse("erp").unwrap()).await.is_err(), "there is no such message");

    // More than one answer of a store holds.
    let large = conversation(4, &["ann", "eli"]);
    conversations.create(&large).await.unwrap();
    for n in 1..=70 {
        let draft = draft(&large, "ann", 300 + n, &"长".repeat(10_000));
        assert!(draft.check().is_ok() && matches!(draft.payload, Payload::Text { .. }));
        store.commit(&draft, NOW).await.unwrap();
    }
    let mut seen = Vec::new();
    while let page = store.range(&large.conversation_id, seen.last().copied().unwrap_or_default(), 100).await.unwrap()
        && !page.is_empty()
    {
        seen.extend(page.iter().map(|message| message.seq));
    }
    assert_eq!(seen, (1..=70).collect::<Vec<u64>>());
}

/// The same draft from many callers is one message, and all are told its place; many drafts at once are as many places.
async fn one_message_from_many(conversations: &dyn ConversationStore, stores: &[&dyn MessageStore]) {
    let group = conversation(5, &["ann", "bob", "cy"]);
    conversations.create(&group).await.unwrap();
    let repeated = draft(&group, "ann", 400, "once");
    let send = async |store: &dyn MessageStore, draft: &Draft| loop {
        match store.commit(draft, NOW).await {
            Ok(Committed::New(message)) => return (true, message.seq),
            Ok(Committed::Before { seq }) => return (false, seq),
            Err(ChatFault::Store(_)) => {}
            Err(fault) => panic!("{fault}"),
        }
    };
    let answers = join_all((0..20).map(|n| send(stores[n % stores.len()], &repeated))).await;
    assert_eq!(answers.iter().filter(|(new, _)| *new).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|(_, seq)| *seq == 1), "{answers:?}");

    let drafts: Vec<Draft> = (0..30).map(|n| draft(&group, "bob", 500 + n, "all at once")).collect();
    let answers = join_all(drafts.iter().enumerate().map(|(n, draft)| send(stores[n % stores.len()], draft))).await;
    let places: BTreeSet<u64> = answers.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(places, (2..=31).collect());
    let stored = stores[0].range(&group.conversation_id, 0, 100).await.unwrap();
    assert!(stored.iter().zip(1..).all(|(message, seq)| message.seq == seq) && stored.len() == 31);
}

/// Reading: marks only go forward, each member has one, and what one says counts as read.
pub async fn reading(conversations: &dyn ConversationStore, store: &dyn MessageStore) {
    let group = conversation(1, &["ann", "bob", "cy"]);
    conversations.create(&group).await.unwrap();
    let mut last = None;
    for n in 1..=5 {
        last = Some(store.commit(&draft(&group, "ann", n, "hi"), NOW).await.unwrap());
    }
    let Some(Committed::New(message)) = last else { panic!("it is new") };
    let bob = user_id("bob");
    for (seq, expected) in [(3, (3, true)), (3, (3, false)), (2, (3, false)), (5, (5, true)), (1, (5, false))] {
        let mark = conversations.mark_read(&group, &bob, seq).await.unwrap();
        assert_eq!(mark, ReadMark { marked: expected.0, moved: expected.1 }, "{seq}");
    }
    let racing = join_all((1..=20).map(|seq| conversations.mark_read(&group, &bob, seq))).await;
    assert!(racing.iter().any(|mark| mark.as_ref().unwrap().marked == 20));

    let marked = async |user: &str| {
        let recent = conversations.recent(&group.tenant_id, &user_id(user), 0, 1).await.unwrap();
        let first = &recent.page[0];
        (first.marked, first.conversation.unread(&user_id(user), first.marked))
    };
    assert_eq!([marked("ann").await, marked("bob").await, marked("cy").await], [(0, 0), (20, 0), (0, 5)]);

    let stored = conversations.conversation(&group.conversation_id).await.unwrap().unwrap();
    let progress = conversations.progress(&stored).await.unwrap();
    let read: Vec<u64> = ["ann", "bob", "cy"].iter().map(|user| progress.read[&user_id(user)]).collect();
    assert_eq!(read, [5, 20, 0]);
    assert_eq!(progress.status(&message), MessageStatus::Read);
    assert_eq!(progress.for_member(5, &user_id("cy")), MessageStatus::Accepted);
}
