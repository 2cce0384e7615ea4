//! The configuration as written: a file, under the environment, under the flags, merged into one tree of values.
//!
//! Nothing is checked here but the file's syntax. Each value remembers the layer it came from, because a relative path
//! means another directory there and because a complaint should say where to look.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Map, Source, Value, ValueKind};
use toml_edit::{Document, Item};

use super::problem::ConfigErrors;

/// What every overriding variable starts with; the rest is the key path in capitals, its parts joined by `__`.
pub(crate) const PREFIX: &str = "ADIT__";

/// The variable that holds an agent's token. It is named apart so that it never looks like an ordinary setting.
pub const TOKEN_VARIABLE: &str = "ADIT_TOKEN";

/// The environment variables a configuration may look at.
///
/// A value of its own, so that tests bring theirs. An empty variable counts as not set, because that is how
/// container tools pass a variable nobody filled in.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Those of this process that are meant for adit: `ADIT__…` and `ADIT_TOKEN`.
    pub fn of_process() -> Self {
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
    }

    /// The value of `name`, unless it is empty or not UTF-8.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str()
    }
}

impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(variables.filter(|(name, value)| is_ours(name) && !value.is_empty()).collect())
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || name == TOKEN_VARIABLE
}

/// What the command line sets, over file and environment.
#[derive(Clone, Default)]
pub struct Flags(Vec<(String, ValueKind)>);

impl Flags {
    /// No flag at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the key path `key` (`tunnel.listen`) to a text, a number, a list of those, or a list of tables.
    ///
    /// A list may also be given as one text with commas.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<ValueKind>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    /// Like [`Flags::with`] for a flag that may not have been given.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<impl Into<ValueKind>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

/// The layer a value came from, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The configuration file.
    File,
    /// A variable that starts with [`PREFIX`].
    Environment,
    /// The command line.
    Flags,
}

impl Origin {
    const ENVIRONMENT: &str = "environment";
    const FLAGS: &str = "flags";

    /// The layer of `value`; what does not say so came with its surroundings.
    pub(crate) fn of(value: &Value, surroundings: Self) -> Self {
        match value.origin() {
            Some(Self::ENVIRONMENT) => Self::Environment,
            Some(Self::FLAGS) => Self::Flags,
            _ => surroundings,
        }
    }

    /// What to add to a message about `key`, so that nobody searches the file for what is not in it.
    pub(crate) fn suffix(self, key: &str) -> String {
        match self {
            Self::File => String::new(),
            Self::Environment => {
                let key = key.split('[').next().unwrap_or(key);
                format!(" (from the environment variable {PREFIX}{})", key.to_uppercase().replace('.', "__"))
            }
            Self::Flags => " (from the command line)".to_owned(),
        }
    }
}

/// A file's text and the path it was read from.
#[derive(Clone)]
pub(crate) struct FileText {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl FileText {
    /// Reads `path`; `missing` says what to do when there is no such file.
    pub(crate) fn read(path: &Path, missing: &str) -> Result<Self, ConfigErrors> {
        let fail = |message: String| ConfigErrors::one(Some(path.to_owned()), "", message);
        let bytes = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => fail(format!("there is no such file; {missing}")),
            _ => fail(format!("cannot be read: {error}; check the path and who may read it")),
        })?;
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(fail("is UTF-16 text; save it as UTF-8".to_owned()));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            fail(format!("is not UTF-8 text (at byte {}); save it as UTF-8", error.utf8_error().valid_up_to()))
        })?;
        Ok(Self { path: path.to_owned(), text })
    }
}

/// Merges the three layers into the root table.
///
/// # Errors
/// The file is no TOML, or a variable is not UTF-8: problems that leave nothing to resolve.
pub(crate) fn merge(
    file: Option<&FileText>,
    environment: &Environment,
    flags: &Flags,
) -> Result<Map<String, Value>, ConfigErrors> {
    let path = file.map(|file| file.path.clone());
    let mut builder = Config::builder();
    if let Some(file) = file {
        builder = builder.add_source(Layer(file_layer(file)?));
    }
    builder = builder.add_source(environment_layer(path.clone(), environment)?).add_source(flags_layer(flags));
    // Whatever it says may quote a line with a secret in it.
    let broken = |_: ConfigError| ConfigErrors::one(path.clone(), "", "cannot be merged with the environment");
    builder.build().and_then(|config| config.collect()).map_err(broken)
}

/// The file alone, for a configuration that neither environment nor flags can change.
///
/// # Errors
/// The file is no TOML.
pub(crate) fn file_layer(file: &FileText) -> Result<Map<String, Value>, ConfigErrors> {
    Ok(map_of(check_syntax(file)?.into_table()))
}

fn map_of(table: impl IntoIterator<Item = (String, Item)>) -> Map<String, Value> {
    let value = |item| match item {
        Item::None => ValueKind::Nil,
        Item::Value(value) => kind_of(value),
        Item::Table(table) => ValueKind::Table(map_of(table)),
        Item::ArrayOfTables(tables) => {
            ValueKind::Array(tables.into_iter().map(|table| Value::from(map_of(table))).collect())
        }
    };
    table.into_iter().map(|(key, item)| (key, Value::from(value(item)))).collect()
}

/// A moment becomes a text, as it is written.
fn kind_of(value: toml_edit::Value) -> ValueKind {
    match value {
        toml_edit::Value::String(text) => ValueKind::String(text.into_value()),
        toml_edit::Value::Integer(number) => ValueKind::I64(number.into_value()),
        toml_edit::Value::Float(number) => ValueKind::Float(number.into_value()),
        toml_edit::Value::Boolean(value) => ValueKind::Boolean(value.into_value()),
        toml_edit::Value::Datetime(moment) => ValueKind::String(moment.into_value().to_string()),
        toml_edit::Value::Array(values) => {
            ValueKind::Array(values.into_iter().map(|value| Value::from(kind_of(value))).collect())
        }
        toml_edit::Value::InlineTable(table) => {
            ValueKind::Table(table.into_iter().map(|(key, value)| (key, Value::from(kind_of(value)))).collect())
        }
    }
}

/// Refuses what is no TOML, and says where without repeating the line, which may hold a secret.
pub(crate) fn check_syntax(file: &FileText) -> Result<Document<&str>, ConfigErrors> {
    Document::parse(file.text.as_str()).map_err(|error| {
        let place = error.span().map(|span| place_in(&file.text, span.start)).unwrap_or_default();
        let hint = error.span().and_then(|span| unquoted_in(&file.text, span.start));
        let hint = hint.map(|line| format!("; a text needs quotes: {line}")).unwrap_or_default();
        ConfigErrors::one(Some(file.path.clone()), place, format!("is not valid TOML: {}{hint}", error.message()))
    })
}

/// Returns the line at `offset` as it should be, with `…` for its value, if that looks like a text without quotes.
fn unquoted_in(text: &str, offset: usize) -> Option<String> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |end| end + 1);
    let (key, value) = text.get(start..)?.lines().next()?.split_once('=')?;
    let key = key.trim();
    let value = value.trim_start();
    let is_text = |value: &str| {
        let word = value.split([' ', '\t', '#', ',', ']']).next().unwrap_or_default();
        word.starts_with(|first: char| first.is_alphanumeric() || "/.:*$~".contains(first))
            && !matches!(word, "true" | "false")
    };
    let element = value.strip_prefix('[').map(str::trim_start);
    match element {
        _ if key.is_empty() => None,
        Some(element) => is_text(element).then(|| format!("{key} = [\"…\"]")),
        None => is_text(value).then(|| format!("{key} = \"…\"")),
    }
}

fn place_in(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

/// One layer above the file, as the tree it stands for.
#[derive(Clone)]
struct Layer(Map<String, Value>);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

fn environment_layer(file: Option<PathBuf>, environment: &Environment) -> Result<Layer, ConfigErrors> {
    let origin = Origin::ENVIRONMENT.to_owned();
    let mut root = Map::new();
    for (name, value) in &environment.0 {
        let Some(value) = value.to_str() else {
            let message = format!("the environment variable {name} is not UTF-8; set it again as plain text");
            return Err(ConfigErrors::one(file, "", message));
        };
        if let Some(key) = name.strip_prefix(PREFIX) {
            let key = key.to_lowercase();
            insert(&mut root, &key.split("__").collect::<Vec<_>>(), Value::new(Some(&origin), value));
        }
    }
    Ok(Layer(root))
}

fn flags_layer(flags: &Flags) -> Layer {
    let origin = Origin::FLAGS.to_owned();
    let mut root = Map::new();
    for (key, value) in &flags.0 {
        insert(&mut root, &key.split('.').collect::<Vec<_>>(), Value::new(Some(&origin), value.clone()));
    }
    Layer(root)
}

/// Puts `value` at `path`. Where a plain value stands in the way of a section it stays, for the walker to complain of.
fn insert(table: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let section = table.entry((*first).to_owned()).or_insert_with(|| Value::from(Map::<String, Value>::new()));
            if let ValueKind::Table(section) = &mut section.kind {
                insert(section, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> FileText {
        FileText { path: "x.toml".into(), text: text.into() }
    }

    fn at<'v>(root: &'v Map<String, Value>, path: &[&str]) -> &'v Value {
        let (last, sections) = path.split_last().unwrap();
        let table = sections.iter().fold(root, |table, key| match &table[*key].kind {
            ValueKind::Table(table) => table,
            other => panic!("{other:?}"),
        });
        &table[*last]
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let text = "[a]\nx = 'file'\ny = 'file'\nz = 'file'\nlist = ['file', 'file']";
        let environment = [("ADIT__A__Y", "env"), ("ADIT__A__Z", "env"), ("ADIT__A__LIST", "env"), ("OTHER", "x")];
        let flags = Flags::new().with("a.z", "flag").with_some("a.w", None::<&str>);
        let root = merge(Some(&file(text)), &environment.into_iter().collect(), &flags).unwrap();
        for (key, value, origin) in [
            ("x", "file", Origin::File),
            ("y", "env", Origin::Environment),
            ("z", "flag", Origin::Flags),
            ("list", "env", Origin::Environment),
        ] {
            let found = at(&root, &["a", key]);
            assert_eq!(
                (found.kind.clone(), Origin::of(found, Origin::File)),
                (ValueKind::from(value), origin),
                "{key}"
            );
        }
        assert!(!root.contains_key("other"));
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let environment = [("ADIT__A", ""), (TOKEN_VARIABLE, "")].into_iter().collect();
        let root = merge(Some(&file("a = 'file'")), &environment, &Flags::new()).unwrap();
        assert_eq!(at(&root, &["a"]).kind, ValueKind::from("file"));
        assert_eq!(environment.get(TOKEN_VARIABLE), None);
    }

    #[test]
    fn a_text_without_quotes_is_shown_with_them_and_never_repeated() {
        for (text, line) in [
            ("[public]\ndomain = tunnel.hunter2.com\n", Some("domain = \"…\"")),
            ("domain = x.hunter2\n", Some("domain = \"…\"")),
            ("names = [hunter2, b]\n", Some("names = [\"…\"]")),
            ("file = /var/hunter2\n", Some("file = \"…\"")),
            ("on = true hunter2\n", None),
            ("on = [true hunter2\n", None),
        ] {
            let error = check_syntax(&file(text)).err().unwrap().to_string();
            assert!(!error.contains("hunter2"), "{error}");
            match line {
                Some(line) => assert!(error.ends_with(&format!("; a text needs quotes: {line}")), "{error}"),
                None => assert!(!error.contains("needs quotes"), "{error}"),
            }
        }
    }

    #[test]
    fn broken_toml_is_one_problem_with_its_place_and_without_the_line() {
        let errors = merge(Some(&file("ok = 1\ntoken = \"adit_hunter2\" x\n")), &Environment::default(), &Flags::new())
            .unwrap_err();
        assert_eq!(errors.problems.len(), 1);
        assert_eq!(errors.problems[0].key, "line 2, column 24");
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }

    #[test]
    fn a_number_beyond_64_bits_is_a_problem_not_a_crash() {
        let huge = file("a = 99999999999999999999999");
        assert!(merge(Some(&huge), &Environment::default(), &Flags::new()).is_err());
    }

    #[test]
    fn a_byte_order_mark_is_no_key() {
        let root = merge(Some(&file("\u{feff}a = 'x'")), &Environment::default(), &Flags::new()).unwrap();
        assert_eq!(at(&root, &["a"]).kind, ValueKind::from("x"));
    }

    #[test]
    fn a_file_in_another_encoding_says_which_to_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.toml");
        for (bytes, says) in
            [(&b"\xff\xfea\0"[..], "is UTF-16 text; save it as UTF-8"), (b"# \xfc", "not UTF-8 text (at byte 2)")]
        {
            std::fs::write(&path, bytes).unwrap();
            let errors = FileText::read(&path, "").err().unwrap().to_string();
            assert!(errors.contains(says), "{errors}");
        }
    }
}
