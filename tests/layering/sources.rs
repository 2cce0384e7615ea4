//! Reads the crate's sources: its modules, what each imports, its functions and structs. Test code is left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A path of module names below the crate's root.
pub(crate) type ModulePath = Vec<String>;

/// One module, inline modules apart from the one that contains them.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// The file that it is in, below `src`.
    pub(crate) file: PathBuf,
    /// Every path in it that leads to something in this crate, from the crate's root.
    pub(crate) imports: Vec<ModulePath>,
    /// Paths that begin with the name of a crate or of something in scope.
    pub(crate) others: Vec<ModulePath>,
    pub(crate) functions: Vec<Function>,
    pub(crate) structs: Vec<Struct>,
}

/// A function or method.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) lines: usize,
    /// The parameters whose type is a tuple.
    pub(crate) tuples: Vec<String>,
}

/// A struct with named fields.
#[derive(Debug)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: usize,
}

/// The crate's sources.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) modules: BTreeMap<ModulePath, Module>,
    /// The lines of each file, without test code.
    pub(crate) lines: BTreeMap<PathBuf, usize>,
}

impl Sources {
    /// Reads the crate whose root module is `src/lib.rs` in `root`.
    pub(crate) fn of_crate(root: &Path) -> Self {
        let mut sources = Self::default();
        sources.read_file(&root.join("src"), Path::new("lib.rs"), Vec::new());
        sources
    }

    /// Reads one text as the module `at`, for the tests of this reader.
    pub(crate) fn of_text(text: &str, at: &[&str]) -> Self {
        let mut sources = Self::default();
        let at = at.iter().map(|name| (*name).to_owned()).collect();
        sources.read_text(text, Path::new("text.rs"), at);
        sources
    }

    fn read_file(&mut self, src: &Path, file: &Path, at: ModulePath) {
        let text = fs::read_to_string(src.join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for child in self.read_text(&text, file, at.clone()) {
            let is_root = file.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs");
            let folder = file.parent().unwrap_or(Path::new(""));
            let folder = if is_root { folder.to_owned() } else { folder.join(file.file_stem().unwrap()) };
            let (plain, nested) = (folder.join(format!("{child}.rs")), folder.join(&child).join("mod.rs"));
            let path = if src.join(&plain).is_file() { plain } else { nested };
            self.read_file(src, &path, [at.clone(), vec![child]].concat());
        }
    }

    /// Adds a file's modules and returns the names of those in files of their own.
    fn read_text(&mut self, text: &str, file: &Path, at: ModulePath) -> Vec<String> {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let tests: usize = parsed.items.iter().filter(|item| is_test(attributes(item))).map(lines_of).sum();
        self.lines.insert(file.to_owned(), text.lines().count() - tests);
        self.read_items(&parsed.items, file, at)
    }

    fn read_items(&mut self, items: &[syn::Item], file: &Path, at: ModulePath) -> Vec<String> {
        let mut files = Vec::new();
        let mut reader = Reader { at: at.clone(), module: Module { file: file.to_owned(), ..Module::default() } };
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                syn::Item::Mod(inner) => match &inner.content {
                    None => files.push(inner.ident.to_string()),
                    Some((_, items)) => {
                        let at = [at.clone(), vec![inner.ident.to_string()]].concat();
                        assert_eq!(self.read_items(items, file, at), Vec::<String>::new(), "{}", file.display());
                    }
                },
                item => reader.visit_item(item),
            }
        }
        self.modules.insert(at, reader.module);
        files
    }

    /// The module that `path` leads to: its longest beginning that is one.
    pub(crate) fn module_of<'a>(&self, path: &'a [String]) -> &'a [String] {
        let is_module = |length: &usize| self.modules.contains_key(&path[..*length]);
        &path[..(0..=path.len()).rev().find(is_module).unwrap_or_default()]
    }
}

/// Gathers what one module has.
struct Reader {
    at: ModulePath,
    module: Module,
}

impl Reader {
    fn add(&mut self, path: &[String]) {
        match self.resolve(path) {
            Some(path) => self.module.imports.push(path),
            None => self.module.others.push(path.to_owned()),
        }
    }

    /// `path` from the crate's root, if it begins with `crate`, `self` or `super`.
    fn resolve(&self, path: &[String]) -> Option<ModulePath> {
        let mut from = match path.first()?.as_str() {
            "crate" => return Some(path[1..].to_owned()),
            "self" | "super" => self.at.clone(),
            _ => return None,
        };
        let mut rest = path;
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "self" => {}
                "super" => drop(from.pop()),
                _ => break,
            }
            rest = others;
        }
        from.extend_from_slice(rest);
        Some(from)
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.add(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(tree, before)),
        }
    }

    fn function(&mut self, signature: &syn::Signature, lines: usize) {
        let tuples = signature.inputs.iter().filter_map(|input| match input {
            syn::FnArg::Typed(typed) if has_tuple(&typed.ty) => Some(text_of(&typed.ty)),
            _ => None,
        });
        let function = Function { name: signature.ident.to_string(), lines, tuples: tuples.collect() };
        self.module.functions.push(function);
    }

    /// Paths in the arguments of macros, which are only tokens.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Ident(name) if colons == 2 && !path.is_empty() => {
                    path.push(name.to_string());
                    colons = 0;
                }
                other => {
                    self.end_of_path(&mut path);
                    colons = 0;
                    match other {
                        TokenTree::Ident(name) => path.push(name.to_string()),
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        _ => {}
                    }
                }
            }
        }
        self.end_of_path(&mut path);
    }

    fn end_of_path(&mut self, path: &mut Vec<String>) {
        if path.len() > 1 {
            self.add(path);
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.add(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig, lines_of(&item.block) + lines_of(&item.sig) - 1);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig, lines_of(&item.block) + lines_of(&item.sig) - 1);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if let syn::Fields::Named(fields) = &item.fields {
            let fields = fields.named.iter().filter(|field| !is_test(&field.attrs)).count();
            self.module.structs.push(Struct { name: item.ident.to_string(), fields });
        }
        visit::visit_item_struct(self, item);
    }
}

fn lines_of(part: &impl Spanned) -> usize {
    part.span().end().line - part.span().start().line + 1
}

fn text_of(part: &syn::Type) -> String {
    part.span().source_text().unwrap_or_default()
}

fn has_tuple(kind: &syn::Type) -> bool {
    match kind {
        syn::Type::Tuple(tuple) => tuple.elems.len() > 1,
        syn::Type::Reference(reference) => has_tuple(&reference.elem),
        syn::Type::Paren(inner) => has_tuple(&inner.elem),
        _ => false,
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        meta => meta.path().is_ident("test"),
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
