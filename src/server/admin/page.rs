//! Lists in pages.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::ApiError;
use crate::values::ClientId;

const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, value_type = Option<u32>)]
    limit: Option<usize>,
    /// Those behind this one: the `next` of the piece before.
    #[param(example = "alice")]
    after: Option<String>,
}

/// Which page of a list, and of which client.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ClientPageQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, value_type = Option<u32>)]
    limit: Option<usize>,
    /// Those behind this one: the `next` of the piece before.
    #[param(example = "alice")]
    after: Option<String>,
    /// Of this client alone.
    #[param(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    client: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T: ToSchema> {
    /// In the order of their ids.
    items: Vec<T>,
    /// What to ask for as `after` to get the next piece; `null`: this was the last one.
    next: Option<String>,
}

impl ClientPageQuery {
    /// Returns the page and the client.
    pub(crate) fn split(self) -> Result<(PageQuery, Option<ClientId>), ApiError> {
        let Self { limit, after, client } = self;
        let client = client.map(|text| ClientId::new(&text)).transpose();
        let client = client.map_err(|error| ApiError::bad_query(format!("client: {error}")))?;
        Ok((PageQuery { limit, after }, client))
    }
}

impl PageQuery {
    /// Returns the page of `all`, which may be in any order, sorted by `id_of`. Leaves out items for which `view` returns
    /// nothing, because they no longer exist.
    ///
    /// # Errors
    /// The limit is out of bounds.
    pub(crate) fn page<I, T: ToSchema>(
        self,
        all: impl IntoIterator<Item = I>,
        id_of: impl Fn(&I) -> String,
        mut view: impl FnMut(I) -> Option<T>,
    ) -> Result<Json<Page<T>>, ApiError> {
        let mut all: Vec<(String, I)> = all.into_iter().map(|item| (id_of(&item), item)).collect();
        let limit = self.limit.unwrap_or(DEFAULT);
        if !(1..=MOST).contains(&limit) {
            return Err(ApiError::bad_query(format!("limit: is {limit}, but must be between 1 and {MOST}")));
        }
        if let Some(after) = &self.after {
            all.retain(|(id, _)| id > after);
        }
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let next = all.get(limit).and_then(|_| all.get(limit - 1)).map(|(id, _)| id.clone());
        let items = all.into_iter().take(limit).filter_map(|(_, item)| view(item)).collect();
        Ok(Json(Page { items, next }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(limit: Option<usize>, after: Option<&str>) -> Result<(Vec<u32>, Option<String>), ApiError> {
        let id_of = |number: &u32| format!("id{number}");
        let query = PageQuery { limit, after: after.map(str::to_owned) };
        let Json(page) = query.page([5, 3, 1, 4, 2], id_of, |number| (number != 4).then_some(number))?;
        Ok((page.items, page.next))
    }

    #[test]
    fn a_list_is_cut_into_pieces_in_the_order_of_ids() {
        assert_eq!(cut(None, None).unwrap(), (vec![1, 2, 3, 5], None));
        assert_eq!(cut(Some(2), None).unwrap(), (vec![1, 2], Some("id2".to_owned())));
        assert_eq!(cut(Some(2), Some("id2")).unwrap(), (vec![3], Some("id4".to_owned())), "one has gone");
        assert_eq!(cut(Some(2), Some("id4")).unwrap(), (vec![5], None));
        assert_eq!(cut(Some(5), Some("")).unwrap().1, None);
        assert_eq!(cut(Some(1), Some("zzz")).unwrap(), (vec![], None));
        assert!(cut(Some(0), None).is_err() && cut(Some(1001), None).is_err());
    }
}
