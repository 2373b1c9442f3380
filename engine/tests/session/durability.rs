//! What is in the store when, and how much is in memory.

use super::*;

#[test]
fn p7_everything_survives_a_clean_shutdown() {
    let store = MemoryStore::default();
    let build = || Engine::builder().open(store.clone()).unwrap();
    let engine = build();
    let tokens: Vec<_> = (0..500).map(|_| fresh(&engine)).collect();
    begin(&engine, Some(&tokens[0])).destroy().unwrap();
    begin(&engine, Some(&tokens[1])).put("k", "changed").unwrap();
    drop(engine);
    let engine = build();
    assert_eq!(begin(&engine, Some(&tokens[0])).id(), None);
    assert_eq!(begin(&engine, Some(&tokens[1])).get::<String>("k").unwrap().as_deref(), Some("changed"));
    for token in &tokens[2..] {
        assert_eq!(begin(&engine, Some(token)).get::<String>("k").unwrap().as_deref(), Some("v"));
    }
    block_on(engine.close()).unwrap();
    block_on(engine.close()).unwrap();
    assert_eq!(block_on(engine.session(None)).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn p7_power_loss_commits_are_stored_when_the_response_leaves() {
    let store = MemoryStore::default();
    let build = || Engine::builder().durability(Durability::PowerLoss).open(store.clone()).unwrap();
    let engine = build();
    let token = fresh(&engine);
    assert_eq!(store.len(), 1);
    let session = begin(&engine, Some(&token));
    session.put("k", "new").unwrap();
    deliver(&session);
    // As after a crash: another engine on what is stored now, while the first never shut down.
    let after = build();
    assert_eq!(begin(&after, Some(&token)).get::<String>("k").unwrap().as_deref(), Some("new"));
}

#[test]
fn p7_destroy_and_renew_are_stored_at_every_level() {
    let store = MemoryStore::default();
    let window = Duration::from_secs(60);
    let build = || Engine::builder().durability(Durability::Eventual { window }).open(store.clone()).unwrap();
    let engine = build();
    let (a, b) = (fresh(&engine), fresh(&engine));
    block_on(engine.flush()).unwrap();
    let session = begin(&engine, Some(&a));
    session.destroy().unwrap();
    deliver(&session);
    let session = begin(&engine, Some(&b));
    session.renew().unwrap();
    let renewed = issued(&session);
    let session = begin(&engine, Some(&renewed));
    session.put("synced", &1).unwrap();
    block_on(session.sync()).unwrap();

    let after = build();
    assert_eq!(begin(&after, Some(&a)).id(), None);
    assert_eq!(begin(&after, Some(&b)).id(), None);
    assert_eq!(begin(&after, Some(&renewed)).keys(), ["k", "synced"]);
}

#[test]
fn p9_the_cache_keeps_its_budget_and_reads_back_what_it_evicted() {
    let store = MemoryStore::default();
    let limit = 256 << 10;
    let engine = Engine::builder().memory_limit(limit).open(store).unwrap();
    let tokens: Vec<_> = (0..3000)
        .map(|i| {
            let session = begin(&engine, None);
            session.put("n", &i).unwrap();
            issued(&session)
        })
        .collect();
    block_on(engine.flush()).unwrap();
    for (i, token) in tokens.iter().enumerate() {
        assert_eq!(begin(&engine, Some(token)).get::<usize>("n").unwrap(), Some(i));
    }
    let stats = block_on(engine.stats());
    assert!(stats.evicted > 1000, "{stats:?}");
    assert!(stats.memory_bytes <= limit as u64 + 4096, "{stats:?}");
    assert_eq!(stats.stored, Some(3000));
}

#[test]
fn p9_an_engine_without_a_store_refuses_what_it_cannot_hold() {
    let engine =
        Engine::builder().memory_limit(64 << 10).anonymous_memory_limit(64 << 10).in_memory().unwrap();
    let mut tokens = Vec::new();
    let error = loop {
        let session = begin(&engine, None);
        session.put("k", &"x".repeat(1000)).unwrap();
        match block_on(session.commit()) {
            Ok(Delivery::Issue(issue)) => tokens.push(issue.token),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::OutOfMemoryBudget);
    assert!(tokens.len() > 40, "{}", tokens.len());
    assert!(tokens.iter().all(|t| begin(&engine, Some(t)).exists("k")), "and loses none it has accepted");
    begin(&engine, Some(&tokens[0])).destroy().unwrap();
    fresh(&engine);
}
