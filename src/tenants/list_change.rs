//! Changes to one list of a client: its names, domains or ports.

use std::ops::RangeInclusive;

use crate::tenants::claim::Claim;
use crate::values::Domain;

/// An item of a list of a client.
pub trait ListItem: Clone + PartialEq + Sized {
    /// Reads an item as it is written in the clients file.
    ///
    /// # Errors
    /// The text is no such item; the message says why.
    fn parse(text: &str) -> Result<Self, String>;

    /// Returns the item as it is written in the clients file.
    fn text(&self) -> String;

    /// Returns whether `other` is superfluous next to this item.
    fn covers(&self, other: &Self) -> bool {
        self == other
    }
}

impl ListItem for Claim {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse::<Self>().map_err(|error| error.to_string())
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl ListItem for Domain {
    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.to_string())
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl ListItem for RangeInclusive<u16> {
    fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(first..=last),
            _ => Err(format!("`{text}` is not a range of ports; write one like 20000-20010, or a single port")),
        }
    }

    fn text(&self) -> String {
        match (self.start(), self.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self.contains(other.start()) && self.contains(other.end())
    }
}

/// A change to a list of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListChange<T> {
    /// Replaces the list. Without any item, the default applies.
    Replace(Vec<T>),
    /// Adds items to the list.
    Add(Vec<T>),
}

impl<T: ListItem> ListChange<T> {
    /// Reads a change: `a,b` replaces the list, `+a,b` adds to it, and an empty text restores the default.
    ///
    /// # Errors
    /// The problem with the first invalid item.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (adds, items) = text.strip_prefix('+').map_or((false, text), |items| (true, items));
        let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
        // `+a,+b` means `+a,b`.
        let items = items.map(|item| T::parse(item.strip_prefix('+').filter(|_| adds).unwrap_or(item)));
        let items: Vec<T> = items.collect::<Result<_, _>>()?;
        match adds {
            true if items.is_empty() => Err("write what is to be added behind the `+`".to_owned()),
            true => Ok(Self::Add(items)),
            false => Ok(Self::Replace(items)),
        }
    }

    /// Applies the change to `list`. Skips items that another item covers.
    pub(crate) fn apply(&self, list: &mut Vec<T>) {
        match self {
            Self::Replace(items) => *list = distinct(items),
            Self::Add(items) => {
                let new: Vec<T> =
                    distinct(items).into_iter().filter(|item| !list.iter().any(|one| one.covers(item))).collect();
                list.extend(new);
            }
        }
    }
}

/// Returns `items` without those that another one covers; of two equal ones, the first stays.
pub(crate) fn distinct<T: ListItem>(items: &[T]) -> Vec<T> {
    let is_covered = |at: usize, item: &T| {
        let mut others = items.iter().enumerate().filter(|(other_at, _)| *other_at != at);
        others.any(|(other_at, other)| other.covers(item) && (other_at < at || !item.covers(other)))
    };
    items.iter().enumerate().filter(|(at, item)| !is_covered(*at, item)).map(|(_, item)| item.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_replaces_or_adds() {
        let read = ListChange::<RangeInclusive<u16>>::parse;
        let items = || vec![1..=1, 2..=2];
        assert_eq!(read("1, 2"), Ok(ListChange::Replace(items())));
        assert_eq!((read("+1,2"), read("+1,+2")), (Ok(ListChange::Add(items())), Ok(ListChange::Add(items()))));
        assert_eq!(read(""), Ok(ListChange::Replace(vec![])));
        assert!(read("+").is_err() && read("1,x").is_err());
    }
}
