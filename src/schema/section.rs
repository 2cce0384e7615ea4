//! Sections whose keys are declared as rows, and what of them changes on reload.

use super::table::Table;

/// A section of a configuration file. [`options!`] implements it.
pub(crate) trait Section: Clone + PartialEq {
    /// The keys of the section.
    const KEYS: &[&str];

    /// Reads every key of the section. Where a value is wrong, the default takes its place.
    fn read(table: &mut Table<'_>) -> Self;

    /// Returns what applies after a reload: `read`, except for keys that apply on restart, which stay as they are in
    /// `self`. `at` is the path of the section.
    fn reload(&self, read: &Self, at: &str, reload: &mut Reload) -> Self;
}

/// Keys that make sense only together, in the middle of another section; they apply on restart.
pub(crate) trait Group: Section {
    /// Returns the group if its keys are given, and reports those that are missing.
    fn given(self, table: &Table<'_>) -> Option<Self>;
}

impl<G: Group> Section for Option<G> {
    const KEYS: &[&str] = G::KEYS;

    fn read(table: &mut Table<'_>) -> Self {
        G::read(table).given(table)
    }

    fn reload(&self, read: &Self, at: &str, reload: &mut Reload) -> Self {
        match (self, read) {
            (Some(running), Some(read)) => Some(running.reload(read, at, reload)),
            (None, None) => None,
            _ => {
                reload.waiting.extend(G::KEYS.iter().map(|key| format!("{at}{key}")));
                self.clone()
            }
        }
    }
}

/// The keys whose values a reload has found changed.
#[derive(Debug, Default)]
pub(crate) struct Reload {
    /// Those that apply now.
    pub(crate) changed: Vec<String>,
    /// Those that apply on restart.
    pub(crate) waiting: Vec<String>,
}

impl Reload {
    /// Returns which value of a key applies after the reload.
    pub(crate) fn key<T: Clone + PartialEq>(&mut self, path: String, waits: bool, running: &T, read: &T) -> T {
        match (running == read, waits) {
            (true, _) => running.clone(),
            (false, true) => {
                self.waiting.push(path);
                running.clone()
            }
            (false, false) => {
                self.changed.push(path);
                read.clone()
            }
        }
    }
}

/// Declares a section of a configuration file: a struct, each field of which is the row of one key.
///
/// A row has the documentation of the key, its name, its type, how it is read (a [`Key`](super::Key) with default and
/// bounds), and whether a change applies on `reload`, `reload unless` a function of the running and the new section says
/// that it has to wait, or on `restart`. `as "name"` names a key other than the field. A field may also be a `section` of
/// its own, or a [`Group`] of keys that stand `inline`. `check by` names a function that gets the section and its table
/// once every key is read.
macro_rules! options {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident $(check by $check:path)? {
            $(
                $(#[doc = $doc:literal])*
                pub $field:ident $(as $key:literal)? : $type:ty $(= $row:expr)?, $kind:ident $(unless $waits:path)?;
            )*
        }
    ) => {
        $(#[$attribute])*
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl $crate::schema::Section for $name {
            const KEYS: &[&str] = &[$( $crate::schema::options!(@name $field $($key)?), )*];

            fn read(table: &mut $crate::schema::Table<'_>) -> Self {
                $(
                    let $field: $type = $crate::schema::options!(
                        @read $kind table, $crate::schema::options!(@name $field $($key)?), concat!($($doc),*) $(, $row)?
                    );
                )*
                #[allow(unused_mut, reason = "only some sections are checked")]
                let mut section = Self { $($field),* };
                $( $check(&mut section, table); )?
                section
            }

            fn reload(&self, read: &Self, at: &str, reload: &mut $crate::schema::Reload) -> Self {
                Self {
                    $(
                        $field: $crate::schema::options!(
                            @reload $kind reload, at, $crate::schema::options!(@name $field $($key)?),
                            self, read, $field $(, $waits)?
                        ),
                    )*
                }
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $key:literal) => { $key };
    (@read section $table:ident, $key:expr, $doc:expr) => {
        $crate::schema::Section::read(&mut $table.section($key))
    };
    (@read inline $table:ident, $key:expr, $doc:expr) => {
        $crate::schema::Section::read($table)
    };
    (@read $applies:ident $table:ident, $key:expr, $doc:expr, $row:expr) => {
        $table.get($key, $row.doc($doc))
    };
    (@reload section $reload:ident, $at:ident, $key:expr, $running:ident, $read:ident, $field:ident) => {
        $crate::schema::Section::reload(&$running.$field, &$read.$field, &format!("{}{}.", $at, $key), $reload)
    };
    (@reload inline $reload:ident, $at:ident, $key:expr, $running:ident, $read:ident, $field:ident) => {
        $crate::schema::Section::reload(&$running.$field, &$read.$field, $at, $reload)
    };
    (@reload restart $reload:ident, $at:ident, $key:expr, $running:ident, $read:ident, $field:ident) => {
        $reload.key(format!("{}{}", $at, $key), true, &$running.$field, &$read.$field)
    };
    (@reload reload $reload:ident, $at:ident, $key:expr, $running:ident, $read:ident, $field:ident $(, $waits:path)?) => {
        $reload.key(
            format!("{}{}", $at, $key),
            false $(|| $waits($running, $read))?,
            &$running.$field,
            &$read.$field,
        )
    };
}

pub(crate) use options;

#[cfg(test)]
mod tests;
