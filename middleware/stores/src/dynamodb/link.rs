//! The requests that the store makes: each on one table, read consistently, sent once unless it is certain that sending again
//! does no harm. It knows items and conditions, and not what they are for.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Delete, KeysAndAttributes, Put,
    ReturnValuesOnConditionCheckFailure as OnFailure, TransactWriteItem,
};
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::time::sleep;

use super::error;
use super::item::{self, Item, Only};

/// Most keys of one request that reads several.
pub(super) const MOST_KEYS: usize = 100;
/// How often a request is sent again that the service had no capacity for. Then it is the engine's turn to wait.
const MOST_THROTTLED: u32 = 4;
/// How often a question is asked again that was not answered. The first time a connection may just have been closed.
const MOST_UNANSWERED: u32 = 2;
const CONDITION_FAILED: &str = "ConditionalCheckFailed";

/// What became of a change that has a condition.
#[derive(Debug)]
pub(super) enum Made {
    Done,
    /// Nothing was changed: this is what stands there.
    Refused(Option<Item>),
}

/// What one page of a question has, and where the next one begins.
pub(super) struct Found {
    pub(super) items: Vec<Item>,
    pub(super) next: Option<Item>,
}

/// What a question is about: the items of one shard.
#[derive(Clone)]
pub(super) struct Range {
    pub(super) shard: String,
    /// The index, and the attribute that the bound is on.
    pub(super) index: Option<&'static str>,
    /// An attribute, how it compares and with what.
    pub(super) bound: Option<(&'static str, &'static str, AttributeValue)>,
}

/// The table of a store.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) table: String,
}

/// Before a request is sent again.
pub(super) async fn pause(tried: u32) {
    sleep(Duration::from_millis(u64::from(tried.saturating_add(1).min(20)))).await;
}

/// Sends until there is an answer that counts: again at once where a transaction was in the way, a few times with pauses where
/// there was no capacity. Both are certain not to have been done. What was not answered is sent again only if it `asks`:
/// a change that is made twice would find itself, and be reported as somebody else's.
async fn answer<T, E, F>(asks: bool, send: impl Fn() -> F) -> Result<T, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata,
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    let (mut contended, mut throttled, mut unanswered) = (0, 0, 0);
    loop {
        let e = match send().await {
            Err(e) => e,
            done => return done,
        };
        let code = e.code().unwrap_or_default();
        if error::is_contended(code) {
            // The deadline of the call ends it.
            pause(contended).await;
            contended += 1;
        } else if error::is_throttled(code) && throttled < MOST_THROTTLED {
            sleep(Duration::from_millis(25 << throttled)).await;
            throttled += 1;
        } else if asks && unanswered < MOST_UNANSWERED && error::is_unanswered(&e) {
            pause(unanswered).await;
            unanswered += 1;
        } else {
            return Err(e);
        }
    }
}

fn some(values: &Item) -> Option<Item> {
    Some(values.clone()).filter(|values| !values.is_empty())
}

fn limit_of(n: usize) -> i32 {
    i32::try_from(n.max(1)).unwrap_or(i32::MAX)
}

fn incomplete(e: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    error::own(StoreErrorKind::Config, "a request could not be made").with_source(e)
}

impl Link {
    pub(super) async fn get(&self, what: &'static str, key: &Item) -> Result<Option<Item>, StoreError> {
        let get = self.client.get_item().table_name(&self.table).consistent_read(true);
        let get = get.set_key(Some(key.clone()));
        let got = answer(true, || get.clone().send()).await.map_err(error::of(what))?;
        Ok(got.item.filter(|item| !item.is_empty()))
    }

    /// The items of these keys, at most [`MOST_KEYS`]. Those that are not there are left out; the order is any.
    pub(super) async fn get_all(&self, what: &'static str, keys: Vec<Item>) -> Result<Vec<Item>, StoreError> {
        let (mut keys, mut items) = (keys, Vec::new());
        for tried in 0.. {
            if keys.is_empty() {
                break;
            }
            let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
            let wanted = wanted.build().map_err(incomplete)?;
            let get = self.client.batch_get_item().request_items(&self.table, wanted);
            let got = answer(true, || get.clone().send()).await.map_err(error::of(what))?;
            items.extend(got.responses.into_iter().flat_map(HashMap::into_values).flatten());
            // An answer has a largest size, and a moment so much capacity.
            let left = got.unprocessed_keys.into_iter().flat_map(HashMap::into_values);
            keys = left.flat_map(|left| left.keys).collect();
            if !keys.is_empty() {
                pause(tried).await;
            }
        }
        Ok(items)
    }

    /// A page of the items in `range`, in their order.
    pub(super) async fn find(
        &self,
        what: &'static str,
        range: &Range,
        limit: usize,
        from: Option<Item>,
    ) -> Result<Found, StoreError> {
        let mut text = "#shard = :shard".to_owned();
        let query = self.client.query().table_name(&self.table).consistent_read(true);
        let query = query.expression_attribute_names("#shard", item::SHARD);
        let mut query = query.expression_attribute_values(":shard", AttributeValue::S(range.shard.clone()));
        if let Some((name, compares, bound)) = &range.bound {
            text.push_str(&format!(" AND #bound {compares} :bound"));
            query = query.expression_attribute_names("#bound", *name);
            query = query.expression_attribute_values(":bound", bound.clone());
        }
        if let Some(index) = range.index {
            query = query.index_name(index);
        }
        let query = query.key_condition_expression(text).limit(limit_of(limit)).set_exclusive_start_key(from);
        let found = answer(true, || query.clone().send()).await.map_err(error::of(what))?;
        let next = found.last_evaluated_key.filter(|key| !key.is_empty());
        Ok(Found { items: found.items.unwrap_or_default(), next })
    }

    /// Sets an item, whatever is there or only if.
    pub(super) async fn put(
        &self,
        what: &'static str,
        item: Item,
        only: Option<&Only>,
    ) -> Result<Made, StoreError> {
        let mut put = self.client.put_item().table_name(&self.table).set_item(Some(item));
        if let Some(only) = only {
            put = put
                .condition_expression(&only.text)
                .set_expression_attribute_names(Some(only.names.clone()))
                .set_expression_attribute_values(some(&only.values))
                .return_values_on_condition_check_failure(OnFailure::AllOld);
        }
        match answer(only.is_none(), || put.clone().send()).await {
            Ok(_) => Ok(Made::Done),
            Err(SdkError::ServiceError(e))
                if matches!(e.err(), PutItemError::ConditionalCheckFailedException(_)) =>
            {
                let PutItemError::ConditionalCheckFailedException(e) = e.into_err() else {
                    return Ok(Made::Refused(None));
                };
                Ok(Made::Refused(e.item))
            }
            Err(e) => Err(error::of(what)(e)),
        }
    }

    /// Removes an item, if there is one, or only if.
    pub(super) async fn delete(
        &self,
        what: &'static str,
        key: Item,
        only: Option<&Only>,
    ) -> Result<Made, StoreError> {
        let mut delete = self.client.delete_item().table_name(&self.table).set_key(Some(key));
        if let Some(only) = only {
            delete = delete
                .condition_expression(&only.text)
                .set_expression_attribute_names(Some(only.names.clone()))
                .set_expression_attribute_values(some(&only.values));
        }
        match answer(only.is_none(), || delete.clone().send()).await {
            Ok(_) => Ok(Made::Done),
            Err(SdkError::ServiceError(e))
                if matches!(e.err(), DeleteItemError::ConditionalCheckFailedException(_)) =>
            {
                Ok(Made::Refused(None))
            }
            Err(e) => Err(error::of(what)(e)),
        }
    }

    /// Raises the time that an item has, or makes the item; a later time stays.
    pub(super) async fn raise(&self, what: &'static str, key: Item, time: u64) -> Result<(), StoreError> {
        let only = Only::before(time);
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .update_expression("SET #time = :time")
            .condition_expression(&only.text)
            .set_expression_attribute_names(Some(only.names))
            .set_expression_attribute_values(Some(only.values));
        // Done twice it is what it is done once.
        match answer(true, || update.clone().send()).await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(e))
                if matches!(e.err(), UpdateItemError::ConditionalCheckFailedException(_)) =>
            {
                Ok(())
            }
            Err(e) => Err(error::of(what)(e)),
        }
    }

    /// A part of a transaction: sets an item.
    pub(super) fn putting(&self, item: Item, only: Option<Only>) -> Result<TransactWriteItem, StoreError> {
        let mut put = Put::builder().table_name(&self.table).set_item(Some(item));
        if let Some(only) = only {
            put = put
                .condition_expression(&only.text)
                .set_expression_attribute_values(some(&only.values))
                .set_expression_attribute_names(Some(only.names))
                .return_values_on_condition_check_failure(OnFailure::AllOld);
        }
        Ok(TransactWriteItem::builder().put(put.build().map_err(incomplete)?).build())
    }

    /// A part of a transaction: removes an item that must be as said.
    pub(super) fn deleting(&self, key: Item, only: Only) -> Result<TransactWriteItem, StoreError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(key))
            .condition_expression(&only.text)
            .set_expression_attribute_values(some(&only.values))
            .set_expression_attribute_names(Some(only.names))
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        Ok(TransactWriteItem::builder().delete(delete.build().map_err(incomplete)?).build())
    }

    /// Does all of `parts` or nothing. `None` if it is done; else, for each part, what became of its condition.
    pub(super) async fn transact(
        &self,
        what: &'static str,
        parts: Vec<TransactWriteItem>,
    ) -> Result<Option<Vec<Condition>>, StoreError> {
        let transact = self.client.transact_write_items().set_transact_items(Some(parts));
        let (mut contended, mut throttled) = (0, 0);
        loop {
            let e = match answer(false, || transact.clone().send()).await {
                Ok(_) => return Ok(None),
                Err(e) => e,
            };
            let Some(reasons) = cancelled(&e) else { return Err(error::of(what)(e)) };
            let any =
                |is: fn(&str) -> bool| reasons.iter().any(|reason| reason.code.as_deref().is_some_and(is));
            if any(|code| code == CONDITION_FAILED) {
                return Ok(Some(reasons.iter().cloned().map(Condition::of).collect()));
            }
            if any(error::is_contended) {
                pause(contended).await;
                contended += 1;
            } else if any(error::is_throttled) && throttled < MOST_THROTTLED {
                sleep(Duration::from_millis(25 << throttled)).await;
                throttled += 1;
            } else {
                return Err(refused(what, reasons).with_source(e.into_service_error()));
            }
        }
    }
}

/// What became of the condition of one part of a transaction.
#[derive(Debug)]
pub(super) enum Condition {
    Holds,
    /// This is what stands there.
    Fails(Option<Item>),
}

impl Condition {
    fn of(reason: CancellationReason) -> Self {
        match reason.code.as_deref() {
            Some(CONDITION_FAILED) => Self::Fails(reason.item.filter(|item| !item.is_empty())),
            _ => Self::Holds,
        }
    }
}

fn cancelled(e: &SdkError<TransactWriteItemsError, HttpResponse>) -> Option<&[CancellationReason]> {
    match e.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(e)) => e.cancellation_reasons.as_deref(),
        _ => None,
    }
}

/// A transaction that was refused for another reason than what stands there.
fn refused(what: &'static str, reasons: &[CancellationReason]) -> StoreError {
    let mut said = reasons.iter().filter(|reason| reason.code.as_deref().is_some_and(|code| code != "None"));
    let (code, said) = said.next().map_or(("an error", ""), |reason| {
        (reason.code.as_deref().unwrap_or_default(), reason.message.as_deref().unwrap_or_default())
    });
    error::said(what, code, said, 400)
}
