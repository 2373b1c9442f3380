//! Queries as the reference of Firestore's REST API says them (`StructuredQuery`), with the indexes that every database has.
//! What would need another index is refused, as the service does; its emulator does not.

use std::cmp::Ordering;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::database::{Database, Document, is_id, is_path, path_of};
use super::value::Value;
use super::{Code, Result, refuse};

const NAME: &str = "__name__";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RunQuery {
    structured_query: Query,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RunAggregationQuery {
    structured_aggregation_query: AggregationQuery,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AggregationQuery {
    structured_query: Query,
    aggregations: Vec<Aggregation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Aggregation {
    alias: String,
    count: Count,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Query {
    from: Vec<From>,
    select: Option<Projection>,
    r#where: Option<Filter>,
    #[serde(default)]
    order_by: Vec<Order>,
    start_at: Option<Cursor>,
    limit: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct From {
    collection_id: String,
    #[serde(default)]
    all_descendants: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Projection {
    #[serde(default)]
    fields: Vec<Field>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Field {
    field_path: String,
}

/// Composite and unary filters are none of the double's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Filter {
    field_filter: FieldFilter,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldFilter {
    field: Field,
    op: Op,
    value: Json,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Op {
    LessThan,
    LessThanOrEqual,
    GreaterThan,
    GreaterThanOrEqual,
    Equal,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    field: Field,
    direction: Option<Direction>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum Direction {
    Ascending,
    Descending,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    #[serde(default)]
    values: Vec<Json>,
    #[serde(default)]
    before: bool,
}

fn invalid<T>(what: impl Into<String>) -> Result<T> {
    refuse(Code::InvalidArgument, what)
}

impl Op {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::LessThan => order.is_lt(),
            Self::LessThanOrEqual => order.is_le(),
            Self::GreaterThan => order.is_gt(),
            Self::GreaterThanOrEqual => order.is_ge(),
            Self::Equal => order.is_eq(),
        }
    }
}

/// A query that has been checked: at most one field besides the name, in one direction.
struct Plan {
    collection: String,
    filter: Option<(Op, Value)>,
    /// The field that is compared or ordered by.
    field: Option<String>,
    /// Whether that field comes before the name in the order.
    by_field: bool,
    is_descending: bool,
    select: Option<Vec<String>>,
    start: Option<(Vec<Value>, bool)>,
    limit: usize,
}

impl Query {
    fn plan(self, root: &str) -> Result<Plan> {
        let [From { collection_id, all_descendants: false }] = &self.from[..] else {
            return invalid("from one collection, and not from what is below others");
        };
        if !is_id(collection_id) || collection_id.contains('/') {
            return invalid("collectionId");
        }
        let mut orders: Vec<_> = self
            .order_by
            .iter()
            .map(|order| (&*order.field.field_path, order.direction.unwrap_or(Direction::Ascending)))
            .collect();
        let filter = match &self.r#where {
            None => None,
            Some(Filter { field_filter: filter }) => {
                Some((&*filter.field.field_path, filter.op, Value::read(&filter.value)?))
            }
        };
        let mut by_field = false;
        if let Some((field, op, _)) = &filter
            && *op != Op::Equal
        {
            match orders.first() {
                None => orders.push((*field, Direction::Ascending)),
                Some((first, _)) if first == field => {}
                // Two fields, and no index of theirs.
                Some(_) => return refuse(Code::FailedPrecondition, "The query requires an index."),
            }
        }
        let direction = orders.last().map_or(Direction::Ascending, |(_, direction)| *direction);
        let is_named = orders.iter().any(|(field, _)| *field == NAME);
        if !is_named {
            orders.push((NAME, direction));
        }
        let mut field = None;
        for named in filter.iter().map(|(field, ..)| *field).chain(orders.iter().map(|(field, _)| *field)) {
            if named == NAME {
                continue;
            }
            if !is_path(named) {
                return invalid(format!("{named} is no field's path"));
            }
            if field.is_some_and(|field| field != named) {
                return refuse(Code::FailedPrecondition, "The query requires an index.");
            }
            field = Some(named);
        }
        match &orders[..] {
            [(NAME, _)] => {}
            [(_, _), (NAME, _)] => by_field = true,
            _ => return invalid("the name comes last in orderBy, and each field once"),
        }
        // An index that every database has goes the same way by the name as by the field; by the name alone it goes up.
        let is_even = orders.iter().all(|(_, by)| *by == direction);
        let is_down = direction == Direction::Descending;
        if !is_even || (is_down && !by_field) {
            return refuse(Code::FailedPrecondition, "The query requires an index.");
        }
        let start = match self.start_at {
            None => None,
            Some(cursor) => {
                let values = cursor.values.iter().map(Value::read).collect::<Result<Vec<_>>>()?;
                if values.is_empty() || values.len() > orders.len() {
                    return invalid(
                        "a cursor has a value for each field of the order, or for the first ones",
                    );
                }
                for (value, (by, _)) in values.iter().zip(&orders) {
                    match (value, *by == NAME) {
                        (Value::Reference(name), true) => {
                            let path = path_of(root, name)?;
                            if path.rsplit_once('/').map(|(collection, _)| collection) != Some(collection_id)
                            {
                                return invalid("a cursor leads out of the collection");
                            }
                        }
                        (_, true) => return invalid("a name in a cursor is a referenceValue"),
                        (_, false) => {}
                    }
                }
                Some((values, cursor.before))
            }
        };
        let select = self.select.map(|select| select.fields).filter(|fields| !fields.is_empty());
        Ok(Plan {
            collection: collection_id.clone(),
            field: field.map(str::to_owned),
            filter: filter.map(|(_, op, value)| (op, value)),
            by_field,
            is_descending: is_down,
            select: select.map(|fields| fields.into_iter().map(|field| field.field_path).collect()),
            start,
            limit: match self.limit {
                None => usize::MAX,
                Some(limit) => match usize::try_from(limit) {
                    Ok(limit) => limit,
                    Err(_) => return invalid("limit"),
                },
            },
        })
    }
}

impl Plan {
    fn run<'a>(&self, database: &'a Database, root: &str) -> Vec<(&'a String, &'a Document)> {
        let key = |path: &str, document: &Document| {
            let by =
                self.field.as_ref().filter(|_| self.by_field).and_then(|field| document.fields.get(field));
            by.cloned().into_iter().chain([Value::Reference(format!("{root}/{path}"))]).collect::<Vec<_>>()
        };
        let order = |a: &[Value], b: &[Value]| {
            let order = a.iter().zip(b).map(|(a, b)| a.order(b)).find(|order| order.is_ne());
            let order = order.unwrap_or(Ordering::Equal);
            if self.is_descending { order.reverse() } else { order }
        };
        let mut found: Vec<_> = database
            .documents
            .iter()
            .filter(|(path, document)| {
                let is_in =
                    path.rsplit_once('/').is_some_and(|(collection, _)| collection == self.collection);
                let value = self.field.as_ref().map(|field| document.fields.get(field));
                let fits = match (value, &self.filter) {
                    (None, _) | (Some(Some(_)), None) => true,
                    // A document without the field is not in its index.
                    (Some(None), _) => false,
                    (Some(Some(value)), Some((op, wanted))) => {
                        value.is_of_type_of(wanted) && op.holds(value.order(wanted))
                    }
                };
                is_in && fits
            })
            .filter(|(path, document)| {
                let Some((start, before)) = &self.start else { return true };
                let order = order(&key(path, document), start);
                order.is_gt() || (*before && order.is_eq())
            })
            .collect();
        found.sort_by(|(a, one), (b, other)| order(&key(a, one), &key(b, other)));
        found.truncate(self.limit);
        found
    }
}

pub fn run(database: &Database, root: &str, request: RunQuery) -> Result<Json> {
    let plan = request.structured_query.plan(root)?;
    let found = plan.run(database, root);
    if found.is_empty() {
        return Ok(json!([{ "readTime": database.read_time() }]));
    }
    let select = plan.select.as_deref();
    let parts = found.into_iter().map(|(path, document)| {
        json!({"document": document.written(root, path, select), "readTime": database.read_time()})
    });
    Ok(parts.collect())
}

pub fn count(database: &Database, root: &str, request: RunAggregationQuery) -> Result<Json> {
    let AggregationQuery { structured_query, aggregations } = request.structured_aggregation_query;
    let count = structured_query.plan(root)?.run(database, root).len();
    let [Aggregation { alias, count: Count {} }] = &aggregations[..] else {
        return refuse(Code::Unimplemented, "one aggregation");
    };
    let count = Value::Integer(i64::try_from(count).unwrap()).written();
    Ok(json!([{"result": {"aggregateFields": {alias: count}}, "readTime": database.read_time()}]))
}
