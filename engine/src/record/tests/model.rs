//! Random edits of a record against a map that does the same.

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Put(String, Value),
    Remove(String),
    Clear,
    Owner(Option<String>),
    Meta(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => ("[a-cß]{0,4}", any_value()).prop_map(|(key, value)| Op::Put(key, value)),
        3 => "[a-cß]{0,3}".prop_map(Op::Remove),
        1 => Just(Op::Clear),
        1 => proptest::option::of("[a-z]{1,20}").prop_map(Op::Owner),
        1 => any::<u64>().prop_map(Op::Meta),
    ]
}

proptest! {
    #[test]
    fn edits_follow_the_model(ops in proptest::collection::vec(any_op(), 1..60), max_keys in 1_usize..24) {
        let limits = Limits { max_record_bytes: 1024, max_key_bytes: 6, max_keys };
        let mut meta = meta();
        let mut record = Record::empty(&meta);
        let mut model = BTreeMap::<String, Value>::new();
        let mut owner = None::<String>;
        let len_of = |model: &BTreeMap<String, Value>, owner: &Option<String>| {
            let data = model.iter().map(|(k, v)| k.len() + Encoded::of(v).unwrap().bytes().len()).sum::<usize>();
            body_len(model.len(), data + owner.as_ref().map_or(0, String::len))
        };
        for op in ops {
            meta.version += 1;
            let before = record.clone();
            match op {
                Op::Put(key, value) => {
                    let result = record.put(&meta, &key, &Encoded::of(&value).unwrap(), &limits);
                    let mut changed = model.clone();
                    changed.insert(key.clone(), value);
                    let fits = len_of(&changed, &owner) <= limits.max_record_bytes;
                    if key.is_empty() || key.len() > 6 {
                        prop_assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidKey);
                    } else if (changed.len() > max_keys && changed.len() > model.len()) || !fits {
                        prop_assert_eq!(result.unwrap_err().kind(), ErrorKind::Limit);
                    } else {
                        record = result.unwrap();
                        model = changed;
                    }
                }
                Op::Remove(key) => match record.remove(&meta, &key) {
                    Some(removed) => {
                        prop_assert!(model.remove(&key).is_some());
                        record = removed;
                    }
                    None => prop_assert!(!model.contains_key(&key)),
                },
                Op::Clear => {
                    model.clear();
                    record = record.cleared(&meta);
                }
                Op::Owner(to) => {
                    let fits = len_of(&model, &to) <= limits.max_record_bytes;
                    let result = record.with_owner(&meta, to.as_deref(), &limits);
                    prop_assert_eq!(result.is_ok(), fits);
                    if let Ok(changed) = result {
                        record = changed;
                        owner = to;
                    }
                }
                Op::Meta(deadline) => {
                    meta.deadline = deadline;
                    record = record.with_meta(&meta);
                }
            }
            if !record.ptr_eq(&before) {
                prop_assert_eq!(record.meta(), meta);
            }
            prop_assert_eq!(record.owner(), owner.as_deref());
            prop_assert_eq!(record.body().len(), len_of(&model, &owner));
            prop_assert!(record.keys().eq(model.keys().map(String::as_str)));
            prop_assert!(record.iter().map(|(_, v)| v.to_value()).eq(model.values().cloned()));
            for (key, value) in &model {
                prop_assert_eq!(&record.get(key).unwrap().to_value(), value);
            }
            prop_assert!(record.get("").is_none() && record.get("absent").is_none());
            let opened = Record::open(&ID, &record.seal(&ID)).unwrap();
            prop_assert_eq!(opened.body(), record.body());
        }
    }
}
