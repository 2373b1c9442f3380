//! Holds the double to the reference of Firestore's REST API: each line says what is asked and what the reference says of it.
//! The same lines are put to Google's emulator, where there is one. The store takes no part in this.

use serde_json::{Value as Json, json};

use super::support::firestore::{PROJECT, root};
use super::*;

/// Documents of a collection that no other test has.
fn name(path: &str) -> String {
    format!("{}/{path}", root("(default)"))
}

fn int(n: i64) -> Json {
    json!({"n": {"integerValue": n.to_string()}})
}

fn set(path: &str, fields: Json) -> Json {
    json!({"update": {"name": name(path), "fields": fields}})
}

fn set_if(path: &str, fields: Json, precondition: Json) -> Json {
    json!({"update": {"name": name(path), "fields": fields}, "currentDocument": precondition})
}

fn delete_if(path: &str, precondition: Json) -> Json {
    json!({"delete": name(path), "currentDocument": precondition})
}

fn maximum(path: &str, n: i64) -> Json {
    let transform = json!({"fieldPath": "n", "maximum": {"integerValue": n.to_string()}});
    json!({"update": {"name": name(path), "fields": {}}, "updateMask": {"fieldPaths": []}, "updateTransforms": [transform]})
}

fn query(parts: Json) -> Json {
    let mut query = json!({"from": [{"collectionId": "probe"}]});
    for (name, value) in parts.as_object().unwrap() {
        query[name] = value.clone();
    }
    json!({ "structuredQuery": query })
}

fn by(field: &str, direction: &str) -> Json {
    json!({"field": {"fieldPath": field}, "direction": direction})
}

fn filter(field: &str, op: &str, value: Json) -> Json {
    json!({"fieldFilter": {"field": {"fieldPath": field}, "op": op, "value": value}})
}

/// One who answers questions.
struct Asked<'a>(&'a dyn Fn(&str, &Json) -> (u16, Json));

impl Asked<'_> {
    /// `"OK"`, or the name of the code.
    fn says(&self, verb: &str, body: &Json) -> String {
        let (status, answer) = (self.0)(verb, body);
        let answer = if answer.is_array() { &answer[0] } else { &answer };
        match status {
            200 => "OK".to_owned(),
            _ => answer["error"]["status"].as_str().unwrap_or("no error").to_owned(),
        }
    }

    fn commits(&self, writes: &[Json], wanted: &str) {
        assert_eq!(self.says("commit", &json!({ "writes": writes })), wanted, "{writes:?}");
    }

    /// The document, or nothing.
    fn get(&self, path: &str) -> Option<Json> {
        let (status, answer) = (self.0)("batchGet", &json!({"documents": [name(path)]}));
        assert_eq!(status, 200);
        let part = &answer[0];
        assert!(part["found"].is_object() != part["missing"].is_string(), "{answer}");
        Some(part["found"].clone()).filter(Json::is_object)
    }

    fn updated(&self, path: &str) -> String {
        self.get(path).unwrap()["updateTime"].as_str().unwrap().to_owned()
    }

    fn finds(&self, query: &Json, wanted: &[&str]) {
        let (status, answer) = (self.0)("runQuery", query);
        assert_eq!(status, 200, "{query}: {answer}");
        let found = answer.as_array().unwrap().iter().filter_map(|part| part["document"]["name"].as_str());
        let found: Vec<_> = found.map(|name| name.rsplit_once('/').unwrap().1).collect();
        assert_eq!(found, wanted, "{query}");
    }
}

fn preconditions(asked: &Asked<'_>) {
    let (new, there) = (json!({"exists": false}), json!({"exists": true}));
    let at = |time: &str| json!({ "updateTime": time });
    asked.commits(&[set_if("probe/p", int(1), there.clone())], "NOT_FOUND");
    asked.commits(&[set_if("probe/p", int(1), new.clone())], "OK");
    asked.commits(&[set_if("probe/p", int(2), new.clone())], "ALREADY_EXISTS");
    let first = asked.updated("probe/p");
    asked.commits(&[set_if("probe/q", int(2), at(&first))], "FAILED_PRECONDITION");
    asked.commits(&[delete_if("probe/q", at(&first))], "FAILED_PRECONDITION");
    asked.commits(&[set_if("probe/p", int(2), at("2014-10-02T15:01:23.045123Z"))], "FAILED_PRECONDITION");
    asked.commits(&[set_if("probe/p", int(2), at(&first))], "OK");
    asked.commits(&[set_if("probe/p", int(3), at(&first))], "FAILED_PRECONDITION");
    let second = asked.updated("probe/p");
    assert_ne!(first, second);
    // What changes nothing leaves the time.
    asked.commits(&[set_if("probe/p", int(2), at(&second))], "OK");
    assert_eq!(asked.updated("probe/p"), second);
    // All or nothing.
    asked.commits(&[set("probe/other", int(1)), set_if("probe/p", int(9), new.clone())], "ALREADY_EXISTS");
    assert_eq!(asked.get("probe/other"), None);
    asked.commits(&[set_if("probe/other", int(1), new), delete_if("probe/p", at(&second))], "OK");
    assert_eq!(asked.get("probe/p"), None);
    assert_eq!(asked.get("probe/other").unwrap()["fields"], int(1));
    asked.commits(&[json!({"delete": name("probe/p")}), json!({"delete": name("probe/other")})], "OK");
}

fn writes(asked: &Asked<'_>) {
    for (n, wanted) in [(5, 5), (3, 5), (8, 8)] {
        asked.commits(&[maximum("probe/m", n)], "OK");
        assert_eq!(asked.get("probe/m").unwrap()["fields"], int(wanted));
    }
    asked.commits(&[set("probe/m", json!({"n": {"stringValue": "x"}, "o": {"booleanValue": true}}))], "OK");
    asked.commits(&[maximum("probe/m", -1)], "OK");
    let wanted = json!({"n": {"integerValue": "-1"}, "o": {"booleanValue": true}});
    assert_eq!(asked.get("probe/m").unwrap()["fields"], wanted);
    // Without a mask, an update is all there is.
    asked.commits(&[set("probe/m", int(1))], "OK");
    assert_eq!(asked.get("probe/m").unwrap()["fields"], int(1));
    let times = [
        ("2014-10-02T15:01:23.045123456Z", "2014-10-02T15:01:23.045123Z"),
        ("2000-02-29T00:00:00.120Z", "2000-02-29T00:00:00.120Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ("1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z"),
    ];
    for (given, wanted) in times {
        asked.commits(&[set("probe/m", json!({"t": {"timestampValue": given}}))], "OK");
        assert_eq!(asked.get("probe/m").unwrap()["fields"]["t"]["timestampValue"], wanted);
    }
    let all = json!({
        "i": {"integerValue": "-9223372036854775808"},
        "s": {"stringValue": "a\u{0}é"},
        "b": {"bytesValue": "AP+/"},
        "l": {"arrayValue": {"values": [{"nullValue": null}, {"doubleValue": 0.5}]}},
        "m": {"mapValue": {"fields": {"r": {"referenceValue": name("probe/x")}}}},
    });
    asked.commits(&[set("probe/m", all.clone())], "OK");
    assert_eq!(asked.get("probe/m").unwrap()["fields"], all);
    asked.commits(&[json!({"delete": name("probe/m")})], "OK");
}

fn refusals(asked: &Asked<'_>) {
    let value = |value: Json| set("probe/r", json!({ "v": value }));
    let long = |n: usize| "A".repeat(n.div_ceil(3) * 4);
    for write in [
        json!({}),
        json!({"delete": root("(default)")}),
        json!({"delete": name("probe")}),
        json!({"delete": name("probe/__x__")}),
        json!({"delete": name("probe/..")}),
        json!({"delete": "nonsense"}),
        json!({"delete": name("probe/r"), "upsert": true}),
        json!({"delete": name("probe/r"), "currentDocument": {"updatedAt": "2014-10-02T15:01:23.045123Z"}}),
        json!({"delete": name("probe/r"), "currentDocument": {"updateTime": "yesterday"}}),
        value(json!({})),
        value(json!({"integerValue": "1.5"})),
        value(json!({"integerValue": "9223372036854775808"})),
        value(json!({"bytesValue": "*"})),
        value(json!({"timestampValue": "10000-01-01T00:00:00Z"})),
        value(json!({"textValue": "x"})),
        value(json!({"bytesValue": long(1_048_488)})),
        set("probe/r", json!({"__v__": {"integerValue": "1"}})),
        set("probe/r", json!({"a": {"bytesValue": long(600_000)}, "b": {"bytesValue": long(600_000)}})),
        json!({"transform": {"document": name("probe/r"), "fieldTransforms": [{"fieldPath": "n", "maximum": {"stringValue": "1"}}]}}),
    ] {
        asked.commits(&[write], "INVALID_ARGUMENT");
    }
    assert_eq!(asked.get("probe/r"), None);
    assert_eq!(asked.says("commit", &json!({"writes": [], "atomic": true})), "INVALID_ARGUMENT");
    assert_eq!(asked.says("batchGet", &json!({"documents": ["nonsense"]})), "INVALID_ARGUMENT");
    assert_eq!(asked.says("runQuery", &query(json!({"limit": -1}))), "INVALID_ARGUMENT");
    assert_eq!(asked.says("runQuery", &query(json!({"having": {}}))), "INVALID_ARGUMENT");
    asked.commits(&[value(json!({"bytesValue": long(1_040_000)}))], "OK");
    asked.commits(&[json!({"delete": name("probe/r")})], "OK");
}

fn queries(asked: &Asked<'_>) {
    let text = |text: &str| json!({ "stringValue": text });
    for (path, due, owner) in [("d", "2", "x"), ("a", "3", "x"), ("c", "1", "y"), ("b", "2", "x")] {
        asked
            .commits(&[set(&format!("probe/{path}"), json!({"due": text(due), "owner": text(owner)}))], "OK");
    }
    let odd = json!({"due": {"integerValue": "1"}, "owner": {"bytesValue": "eA=="}});
    asked.commits(&[set("probe/e", odd), set("probe/f", int(1)), set("probe/a/probe/z", int(1))], "OK");
    let name_up = by("__name__", "ASCENDING");
    asked.finds(&query(json!({})), &["a", "b", "c", "d", "e", "f"]);
    asked.finds(&query(json!({"orderBy": [name_up], "limit": 2})), &["a", "b"]);
    let cursor =
        |path: &str, before: bool| json!({"values": [{"referenceValue": name(path)}], "before": before});
    asked.finds(&query(json!({"orderBy": [name_up], "startAt": cursor("probe/d", false)})), &["e", "f"]);
    asked.finds(&query(json!({"orderBy": [name_up], "startAt": cursor("probe/d", true)})), &["d", "e", "f"]);
    asked.finds(&query(json!({"orderBy": [name_up], "startAt": cursor("probe/dd", false)})), &["e", "f"]);
    let due = |op: &str, value: &str| filter("due", op, text(value));
    asked.finds(&query(json!({"where": due("LESS_THAN_OR_EQUAL", "2")})), &["c", "b", "d"]);
    asked.finds(&query(json!({"where": due("LESS_THAN", "2"), "orderBy": [by("due", "ASCENDING")]})), &["c"]);
    let down = by("due", "DESCENDING");
    asked.finds(&query(json!({"where": due("GREATER_THAN", "1"), "orderBy": [down]})), &["a", "d", "b"]);
    let owner = filter("owner", "EQUAL", text("x"));
    asked.finds(&query(json!({"where": owner})), &["a", "b", "d"]);
    let behind =
        json!({"where": owner, "orderBy": [name_up], "startAt": cursor("probe/a", false), "limit": 1});
    asked.finds(&query(behind), &["b"]);
    asked.finds(&json!({"structuredQuery": {"from": [{"collectionId": "nothing"}]}}), &[]);
    let (_, answer) = (asked.0)(
        "runQuery",
        &query(json!({"where": owner, "select": {"fields": [{"fieldPath": "due"}]}, "limit": 1})),
    );
    assert_eq!(answer[0]["document"]["fields"], json!({"due": text("3")}));
    let counted = |query: Json| {
        let counting = json!({"structuredAggregationQuery": {
            "structuredQuery": query["structuredQuery"], "aggregations": [{"alias": "c", "count": {}}],
        }});
        (asked.0)("runAggregationQuery", &counting).1[0]["result"]["aggregateFields"]["c"].clone()
    };
    assert_eq!(counted(query(json!({}))), json!({"integerValue": "6"}));
    assert_eq!(counted(query(json!({"where": owner}))), json!({"integerValue": "3"}));
    for path in ["a", "b", "c", "d", "e", "f", "a/probe/z"] {
        asked.commits(&[json!({"delete": name(&format!("probe/{path}"))})], "OK");
    }
}

fn all(asked: &Asked<'_>) {
    preconditions(asked);
    writes(asked);
    refusals(asked);
    queries(asked);
}

#[test]
fn the_double_is_as_the_reference_says() {
    let server = Server::start();
    let asked = Asked(&|verb, body| server.ask(verb, body));
    all(&asked);
    // What the emulator lets pass, and the service does not.
    let owner = filter("owner", "EQUAL", json!({"stringValue": "x"}));
    for parts in [
        json!({"where": owner, "orderBy": [by("due", "ASCENDING")]}),
        json!({"where": filter("due", "LESS_THAN", json!({"stringValue": "2"})), "orderBy": [by("owner", "ASCENDING")]}),
        json!({"orderBy": [by("due", "ASCENDING"), by("owner", "ASCENDING")]}),
        json!({"where": owner, "orderBy": [by("__name__", "DESCENDING")]}),
        json!({"orderBy": [by("due", "ASCENDING"), by("__name__", "DESCENDING")]}),
    ] {
        assert_eq!(asked.says("runQuery", &query(parts.clone())), "FAILED_PRECONDITION", "{parts}");
    }
    asked.commits(
        &[set("probe/x", json!({"t": {"timestampValue": "2014-13-02T15:01:23Z"}}))],
        "INVALID_ARGUMENT",
    );
    let elsewhere = format!("projects/{PROJECT}/databases/other/documents/c/a");
    assert_eq!(asked.says("commit", &json!({"writes": [{"delete": elsewhere}]})), "INVALID_ARGUMENT");
    let unaligned = json!({"updateTime": "2014-10-02T15:01:23.045123456Z"});
    asked.commits(&[delete_if("probe/x", unaligned)], "INVALID_ARGUMENT");
    // What the reference has and the double does not is not answered by half.
    assert_eq!(asked.says("commit", &json!({"writes": [], "transaction": "AA=="})), "UNIMPLEMENTED");
    assert_eq!(asked.says("beginTransaction", &json!({})), "UNIMPLEMENTED");
    let large = json!({"writes": [set("probe/r", json!({"v": {"stringValue": "x".repeat(10 << 20)}}))]});
    assert_eq!(asked.says("commit", &large), "INVALID_ARGUMENT");
}

#[test]
fn the_emulator_agrees_with_the_double() {
    if std::env::var(emulator::NAMED).is_ok_and(|named| !named.is_empty()) {
        return support::skipped("a server that was named is not asked what it refuses");
    }
    let Some(emulator) = Emulator::start() else { return };
    all(&Asked(&|verb, body| emulator.ask(verb, body)));
}
