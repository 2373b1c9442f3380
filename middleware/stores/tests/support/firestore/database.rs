//! Documents, and commits that are made whole or not at all, as the reference of Firestore's REST API says it (`Write`,
//! `Precondition`, `commit`, `batchGet`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::value::{self, Value};
use super::{Code, Result, refuse};

/// 1 MiB, by the page on quotas.
const LARGEST: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub fields: BTreeMap<String, Value>,
    created: i128,
    pub updated: i128,
}

/// One database.
#[derive(Default)]
pub struct Database {
    /// By what follows `…/documents/`.
    pub documents: BTreeMap<String, Document>,
    /// Microseconds since 1970: the service's clock, which moves with each commit.
    now: i128,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Commit {
    #[serde(default)]
    writes: Vec<Write>,
    transaction: Option<Json>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Write {
    update: Option<Written>,
    delete: Option<String>,
    transform: Option<Transform>,
    update_mask: Option<Mask>,
    #[serde(default)]
    update_transforms: Vec<FieldTransform>,
    current_document: Option<Precondition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    fields: Option<Json>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Transform {
    document: String,
    field_transforms: Vec<FieldTransform>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FieldTransform {
    field_path: String,
    maximum: Option<Json>,
    minimum: Option<Json>,
    increment: Option<Json>,
    set_to_server_value: Option<Json>,
    append_missing_elements: Option<Json>,
    remove_all_from_array: Option<Json>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mask {
    #[serde(default)]
    pub field_paths: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Precondition {
    exists: Option<bool>,
    update_time: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BatchGet {
    #[serde(default)]
    documents: Vec<String>,
    mask: Option<Mask>,
    transaction: Option<Json>,
    new_transaction: Option<Json>,
    read_time: Option<Json>,
}

fn invalid<T>(what: impl Into<String>) -> Result<T> {
    refuse(Code::InvalidArgument, what)
}

/// What follows `…/documents/` in the name of a document of that database.
pub fn path_of(root: &str, name: &str) -> Result<String> {
    let Some(path) = name.strip_prefix(root).and_then(|path| path.strip_prefix('/')) else {
        return invalid(format!("{name} is no document of {root}"));
    };
    let segments: Vec<_> = path.split('/').collect();
    if segments.len() % 2 != 0 || segments.iter().any(|segment| !is_id(segment)) {
        return invalid(format!("{name} is no document's name"));
    }
    Ok(path.to_owned())
}

pub fn is_id(segment: &str) -> bool {
    let is_reserved = segment.len() >= 4 && segment.starts_with("__") && segment.ends_with("__");
    !segment.is_empty() && segment.len() <= 1500 && !matches!(segment, "." | "..") && !is_reserved
}

/// Only the simple form of a field's path.
pub fn is_path(path: &str) -> bool {
    path.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && path.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

pub fn masked(fields: &BTreeMap<String, Value>, mask: Option<&[String]>) -> BTreeMap<String, Value> {
    let is_in = |name: &String| mask.is_none_or(|mask| mask.contains(name));
    fields.iter().filter(|(name, _)| is_in(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// By the page on storage sizes: the name, the fields, and 32 bytes.
fn size(path: &str, fields: &BTreeMap<String, Value>) -> usize {
    path.split('/').map(|segment| segment.len() + 1).sum::<usize>() + 16 + value::fields_size(fields) + 32
}

impl Document {
    pub fn written(&self, root: &str, path: &str, mask: Option<&[String]>) -> Json {
        json!({
            "name": format!("{root}/{path}"),
            "fields": value::fields_written(&masked(&self.fields, mask)),
            "createTime": value::timestamp_written(self.created),
            "updateTime": value::timestamp_written(self.updated),
        })
    }
}

impl Precondition {
    fn holds(&self, path: &str, found: Option<&Document>) -> Result<()> {
        match (self.exists, &self.update_time) {
            (Some(true), None) if found.is_none() => {
                refuse(Code::NotFound, format!("No document to update: {path}"))
            }
            (Some(false), None) if found.is_some() => {
                refuse(Code::AlreadyExists, format!("Document already exists: {path}"))
            }
            (Some(_), None) => Ok(()),
            (None, Some(time)) => {
                let time = value::aligned(time)?;
                match found {
                    Some(found) if found.updated == time => Ok(()),
                    _ => {
                        refuse(Code::FailedPrecondition, format!("{path} was not last updated at that time"))
                    }
                }
            }
            _ => invalid("a Precondition has one of its fields"),
        }
    }
}

impl FieldTransform {
    fn apply(&self, fields: &mut BTreeMap<String, Value>) -> Result<Json> {
        let others = [
            &self.minimum,
            &self.increment,
            &self.set_to_server_value,
            &self.append_missing_elements,
            &self.remove_all_from_array,
        ];
        if others.into_iter().any(Option::is_some) {
            return refuse(Code::Unimplemented, "of transforms, the double has `maximum`");
        }
        let Some(maximum) = &self.maximum else { return invalid("a transform has one of its fields") };
        if !is_path(&self.field_path) {
            return invalid(format!("{} is no field's path", self.field_path));
        }
        let given = Value::read(maximum)?;
        if !given.is_number() {
            return invalid("maximum must be an integer or a double");
        }
        let old = fields.get(&self.field_path).filter(|old| old.is_number());
        let new = old.filter(|old| old.order(&given).is_ge()).cloned().unwrap_or(given);
        fields.insert(self.field_path.clone(), new.clone());
        Ok(new.written())
    }
}

impl Database {
    /// Some µs later: more than the last digits of the time differ only now and then.
    fn tick(&mut self) -> i128 {
        const BEGIN: i128 = 1_790_000_000_000_000;
        self.now = if self.now == 0 { BEGIN } else { self.now + if self.now % 7 == 0 { 999_999 } else { 1 } };
        self.now
    }

    pub fn read_time(&self) -> String {
        value::timestamp_written(self.now)
    }

    pub fn commit(&mut self, root: &str, commit: Commit) -> Result<Json> {
        if commit.transaction.is_some() {
            return refuse(Code::Unimplemented, "the double has no transactions");
        }
        let now = self.tick();
        let mut changed: BTreeMap<String, Option<Document>> = BTreeMap::new();
        let (mut transformed, mut results) = (BTreeSet::new(), Vec::new());
        for write in commit.writes {
            let kinds = [write.update.is_some(), write.delete.is_some(), write.transform.is_some()];
            if kinds.into_iter().filter(|is| *is).count() != 1 {
                return invalid("a Write has exactly one operation");
            }
            if write.update.is_none() && (write.update_mask.is_some() || !write.update_transforms.is_empty())
            {
                return invalid("updateMask and updateTransforms belong to an update");
            }
            let name = write.update.as_ref().map(|update| &update.name);
            let name = name.or(write.delete.as_ref()).or(write.transform.as_ref().map(|it| &it.document));
            let path = path_of(root, name.map_or("", String::as_str))?;
            let found = match changed.get(&path) {
                Some(found) => found.clone(),
                None => self.documents.get(&path).cloned(),
            };
            if let Some(precondition) = &write.current_document {
                precondition.holds(&path, found.as_ref())?;
            }
            if write.delete.is_some() {
                changed.insert(path, None);
                results.push(json!({}));
                continue;
            }
            let old = found.as_ref().map(|found| found.fields.clone()).unwrap_or_default();
            let (mut fields, transforms) = match (write.update, write.transform) {
                (Some(update), _) => {
                    if transformed.contains(&path) {
                        return invalid("an update cannot follow a transform on the same document");
                    }
                    let given = update.fields.as_ref().map(value::fields).transpose()?.unwrap_or_default();
                    let fields = match &write.update_mask {
                        None => given,
                        Some(mask) => {
                            let mut fields = old.clone();
                            for name in &mask.field_paths {
                                if !is_path(name) {
                                    return invalid(format!("{name} is no field's path"));
                                }
                                match given.get(name) {
                                    Some(value) => fields.insert(name.clone(), value.clone()),
                                    None => fields.remove(name),
                                };
                            }
                            fields
                        }
                    };
                    (fields, write.update_transforms)
                }
                (None, Some(transform)) => {
                    if transform.field_transforms.is_empty() || !transformed.insert(path.clone()) {
                        return invalid("one transform to a document, and none without fields");
                    }
                    (old.clone(), transform.field_transforms)
                }
                (None, None) => return invalid("a Write has exactly one operation"),
            };
            let told = transforms.iter().map(|it| it.apply(&mut fields)).collect::<Result<Vec<_>>>()?;
            let size = size(&path, &fields);
            if size > LARGEST {
                return invalid(format!(
                    "Document '{path}' cannot be written because its size ({size} bytes) exceeds the maximum allowed size of {LARGEST} bytes."
                ));
            }
            // A write that changes nothing leaves the time of the last one.
            let updated = match &found {
                Some(found) if found.fields == fields => found.updated,
                _ => now,
            };
            let created = found.map_or(now, |found| found.created);
            changed.insert(path, Some(Document { fields, created, updated }));
            let mut result = json!({ "updateTime": value::timestamp_written(updated) });
            if !told.is_empty() {
                result["transformResults"] = json!(told);
            }
            results.push(result);
        }
        for (path, document) in changed {
            match document {
                Some(document) => self.documents.insert(path, document),
                None => self.documents.remove(&path),
            };
        }
        Ok(json!({ "writeResults": results, "commitTime": value::timestamp_written(now) }))
    }

    /// In another order than they were asked for: the reference promises none.
    pub fn batch_get(&self, root: &str, request: &BatchGet) -> Result<Json> {
        if request.transaction.is_some() || request.new_transaction.is_some() || request.read_time.is_some() {
            return refuse(Code::Unimplemented, "the double reads what is there now");
        }
        let mask = request.mask.as_ref().map(|mask| &mask.field_paths[..]);
        let names = request.documents.iter().map(|name| path_of(root, name));
        let names: BTreeSet<_> = names.collect::<Result<_>>()?;
        let parts = names.iter().rev().map(|path| match self.documents.get(path) {
            Some(found) => json!({"found": found.written(root, path, mask), "readTime": self.read_time()}),
            None => json!({"missing": format!("{root}/{path}"), "readTime": self.read_time()}),
        });
        Ok(parts.collect())
    }
}
