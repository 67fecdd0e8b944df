//! A small documentation site of our own making: pages to learn from where none are installed, and fixtures.
//!
//! A made-up library is drawn from the seed: modules, types, and functions that act on them. What a function
//! is called decides what it takes, returns, and how it fails, and its examples use it accordingly, so that
//! there is something to learn. Around the text stand navigation, sidebars, scripts and footers, so that
//! there is something to take away.
//!
//! Texts come from grammars: `[a|b]` is one of the alternatives, `{name}` a word of the page.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::parallel::ordered_map;
use crate::random::Random;
use crate::{Error, Progress};

mod words;
use words::{ADJECTIVES, CHAPTERS, ITEMS, NOUNS, REMARKS, VERBS, Verb};

/// The file that [`generate`] writes last: the site is complete if it is there.
pub const SITE: &str = "site.json";

/// How large a site is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SiteSettings {
    /// Pages.
    pub pages: usize,
    /// Which library is made up. The same seed gives the same pages.
    pub seed: u64,
    /// Threads; 0 means one per core.
    pub threads: usize,
}

impl Default for SiteSettings {
    fn default() -> Self {
        Self { pages: 4000, seed: 0, threads: 0 }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStats {
    /// Pages.
    pub pages: u64,
    /// Bytes of HTML.
    pub html_bytes: u64,
}

/// Writes a site into `folder`, replacing one that was made there before. `progress` counts pages.
///
/// # Errors
/// [`Error::Setting`] for no page at all, or where `folder` holds something that is no site of ours;
/// [`Error::Io`] and [`Error::Write`] from the disk.
pub fn generate(
    folder: &Path,
    settings: &SiteSettings,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<SiteStats, Error> {
    if settings.pages == 0 {
        return Err(Error::Setting { name: "pages", got: "0".into(), expected: "at least 1" });
    }
    check_replaceable(folder)?;
    let library = Library::new(settings.seed, settings.pages);
    // Pages are written aside, and the folder gets its name when all are there.
    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(".tmp");
    let aside = folder.with_file_name(name);
    remove(&aside)?;
    for path in library.modules.iter().map(|module| module.name.as_str()).chain(["guide"]) {
        let path = aside.join(path);
        fs::create_dir_all(&path).map_err(Error::io("make the folder", &path))?;
    }

    let mut stats = SiteStats::default();
    // A page alone is nothing to keep: it need not be flushed, as the file written last is.
    let write_page = |i: usize| {
        let (name, html) = library.page(i);
        let path = aside.join(name);
        fs::write(&path, &html).map_err(Error::write(&path)).map(|()| html.len() as u64)
    };
    ordered_map(settings.threads, (0..settings.pages).map(Ok), write_page, |bytes| {
        stats.pages += 1;
        stats.html_bytes += bytes?;
        let total = Some(settings.pages as u64);
        progress(Progress { stage: "write", done: stats.pages, total, unit: "pages" });
        Ok(())
    })?;
    let json = serde_json::to_vec_pretty(&(settings, &stats)).expect("settings are plain data");
    elmwood_durable::write_file(aside.join(SITE), &json)?;
    remove(folder)?;
    fs::rename(&aside, folder).map_err(Error::io("rename into", folder))?;
    Ok(stats)
}

/// Nothing is overwritten but a site that was made before.
fn check_replaceable(folder: &Path) -> Result<(), Error> {
    let is_empty = fs::read_dir(folder).map_or(!folder.exists(), |mut entries| entries.next().is_none());
    if is_empty || folder.join(SITE).exists() {
        return Ok(());
    }
    let got = folder.display().to_string();
    Err(Error::Setting { name: "folder", got, expected: "empty, absent, or a site made before" })
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

struct Library {
    seed: u64,
    name: String,
    modules: Vec<Module>,
    /// Pages that tell of a module, a type, or a function, before chapters of the guide start.
    plan: Vec<Plan>,
}

struct Module {
    name: String,
    types: Vec<Type>,
}

struct Type {
    /// `AmberLedger`.
    name: String,
    /// `amber ledger`.
    plain: String,
    item: &'static str,
    /// Pairs of name and type.
    fields: Vec<(String, &'static str)>,
    verbs: Vec<&'static Verb>,
}

#[derive(Clone, Copy)]
enum Plan {
    Module(usize),
    Type(usize, usize),
    Function(usize, usize, usize),
    Chapter(usize),
}

impl Library {
    fn new(seed: u64, pages: usize) -> Self {
        let mut random = Random::new(seed, u64::MAX);
        let name = format!("{}wood", random.choose(&["elm", "larch", "birch", "hazel", "rowan", "alder"]));
        let mut nouns: Vec<&'static str> = NOUNS.to_vec();
        random.shuffle(&mut nouns);
        let mut modules = Vec::new();
        let mut plan = Vec::new();
        // Of every seven pages one is a chapter of the guide.
        let described = pages - pages / 7;
        for (m, noun) in nouns.iter().enumerate() {
            if plan.len() >= described {
                break;
            }
            plan.push(Plan::Module(m));
            let mut adjectives: Vec<&'static str> = ADJECTIVES.to_vec();
            random.shuffle(&mut adjectives);
            let mut types = Vec::new();
            for (t, adjective) in adjectives[..14].iter().enumerate() {
                plan.push(Plan::Type(m, t));
                let mut verbs: Vec<&'static Verb> = VERBS.iter().collect();
                random.shuffle(&mut verbs);
                verbs.truncate(5 + random.below(4));
                plan.extend((0..verbs.len()).map(|v| Plan::Function(m, t, v)));
                types.push(Type::new(adjective, noun, verbs, &mut random));
            }
            modules.push(Module { name: plural(noun), types });
        }
        plan.truncate(described);
        plan.extend((0..pages - plan.len()).map(Plan::Chapter));
        Self { seed, name, modules, plan }
    }

    /// The path and the HTML of page `i`, from the seed and `i` alone.
    fn page(&self, i: usize) -> (String, String) {
        let mut page = Page::new(Random::new(self.seed, i as u64), &self.name);
        match self.plan[i] {
            Plan::Module(m) => self.module_page(&mut page, &self.modules[m]),
            Plan::Type(m, t) => self.type_page(&mut page, &self.modules[m], &self.modules[m].types[t]),
            Plan::Function(m, t, v) => {
                self.function_page(&mut page, &self.modules[m], &self.modules[m].types[t], v);
            }
            Plan::Chapter(n) => self.chapter(&mut page, n),
        }
        let html = page.finish(self);
        (page.path, html)
    }

    fn module_page(&self, page: &mut Page, module: &Module) {
        page.path = format!("{}/index.html", module.name);
        page.set("module", &module.name);
        page.set("nouns", &module.name);
        page.heading(1, &format!("Module {}::{}", self.name, module.name));
        page.say(
            "[Everything about {nouns}|Types that hold and work on {nouns}|The {nouns} of this library]: \
             [how they are made|how they are filled], [changed|read], and [given back|compared].",
        );
        for ty in &module.types {
            page.set_type(ty);
            page.heading(3, &ty.name);
            page.say(
                "[Holds|Keeps|Collects|Owns] the {items} of [one|a single|a whole] {plain}[| in order of \
                 arrival| sorted by key| behind a lock]; [start with|see first|most callers begin with] \
                 `{type}::{verb}`.",
            );
        }
    }

    fn type_page(&self, page: &mut Page, module: &Module, ty: &Type) {
        page.path = format!("{}/struct.{}.html", module.name, ty.name);
        page.set("module", &module.name);
        page.set_type(ty);
        page.heading(1, &format!("Struct {}::{}::{}", self.name, module.name, ty.name));
        let fields: String =
            ty.fields.iter().map(|(name, kind)| format!("    pub {name}: {kind},\n")).collect();
        page.code(&format!("pub struct {} {{\n{fields}}}", ty.name));
        page.say(
            "[A {plain} holds|One {plain} owns|The {plain} keeps] [any number of|up to {n}|at least one of the] \
             {items}[| and knows when each was added| together with their sizes].",
        );
        page.remarks(3);
        page.heading(2, "Fields");
        for (name, kind) in &ty.fields {
            page.set("field", name);
            page.set("kind", kind);
            page.say(
                "`{field}`, of type `{kind}`: [how {plains} count|what each {item} adds to|the part of a \
                 {plain} that tells] [its|the] {field}[| in {units}|, never negative|, {n} unless set].",
            );
        }
        page.heading(2, "Methods");
        for verb in &ty.verbs {
            page.set_verb(verb);
            let signature = page.expand(verb.signature);
            page.code(&format!("pub fn {signature}"));
            page.say(verb.summary);
            if page.random.one_in(2) {
                page.say(verb.returns);
            }
        }
        page.heading(2, "Examples");
        page.set_verb(ty.verbs[0]);
        page.example(ty.verbs[0]);
    }

    fn function_page(&self, page: &mut Page, module: &Module, ty: &Type, v: usize) {
        let verb = ty.verbs[v];
        page.path = format!("{}/fn.{}.{}.html", module.name, ty.name, verb.name);
        page.set("module", &module.name);
        page.set_type(ty);
        page.set_verb(verb);
        page.heading(1, &format!("Function {}::{}::{}", self.name, ty.name, verb.name));
        let signature = page.expand(verb.signature);
        page.code(&format!("pub fn {signature}"));
        page.say(verb.summary);
        page.remarks(2);
        page.heading(2, "Returns");
        page.say(verb.returns);
        page.heading(2, "Errors");
        page.say(verb.fails);
        page.heading(2, "Examples");
        page.example(verb);
        page.remarks(1);
        page.heading(2, "See also");
        let other = ty.verbs[(v + 1) % ty.verbs.len()];
        page.set("other", other.name);
        page.say(
            "`{type}::{other}`, which [comes before|is often called after|undoes the work of|shares its \
             errors with] `{verb}` [when|where|whenever] {items} [arrive|are kept|change] [one by one|in \
             {units}|out of order].",
        );
    }

    fn chapter(&self, page: &mut Page, n: usize) {
        page.path = format!("guide/chapter-{:04}.html", n + 1);
        let module = &self.modules[page.random.below(self.modules.len())];
        let ty = &module.types[page.random.below(module.types.len())];
        let verb = ty.verbs[page.random.below(ty.verbs.len())];
        page.set("module", &module.name);
        page.set_type(ty);
        page.set_verb(verb);
        page.heading(1, "[Working with|All about|A first|Testing a|Sharing a|Growing a|Measuring a] {plain}");
        for section in 0..2 + page.random.below(3) {
            if section > 0 {
                page.heading(2, "[When|How|Why|Where] {items} [change|are lost|pile up|are counted|meet]");
            }
            for _ in 0..1 + page.random.below(3) {
                let mut sentences = Vec::new();
                for _ in 0..3 + page.random.below(3) {
                    let grammar = page.random.choose(&CHAPTERS);
                    sentences.push(page.expand(grammar));
                }
                page.paragraph(&sentences.join(" "));
            }
            if section == 0 || page.random.one_in(2) {
                let verb = ty.verbs[page.random.below(ty.verbs.len())];
                page.set_verb(verb);
                page.say("[Here is how|This shows how|The next lines show how] `{verb}` [is used|works|behaves] on a {plain}:");
                page.example(verb);
            }
        }
        page.remarks(2);
    }
}

impl Type {
    fn new(adjective: &str, noun: &str, verbs: Vec<&'static Verb>, random: &mut Random) -> Self {
        let name = capital(adjective) + &capital(noun);
        let mut fields = Vec::new();
        for _ in 0..2 + random.below(4) {
            let field = random.choose(&[
                "capacity", "label", "weight", "height", "owner", "age", "depth", "price", "rank", "width",
                "limit", "balance",
            ]);
            let kind = match field {
                "label" | "owner" => "String",
                "weight" | "price" | "balance" => "f64",
                _ => "usize",
            };
            if fields.iter().all(|(name, _)| name != field) {
                fields.push((field.to_owned(), kind));
            }
        }
        Self { name, plain: format!("{adjective} {noun}"), item: random.choose(&ITEMS), fields, verbs }
    }
}

/// One page as it grows.
struct Page {
    random: Random,
    words: HashMap<&'static str, String>,
    title: String,
    path: String,
    body: String,
}

impl Page {
    fn new(random: Random, library: &str) -> Self {
        let words = HashMap::from([("library", library.to_owned())]);
        Self { random, words, title: String::new(), path: String::new(), body: String::new() }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.words.insert(name, value.to_owned());
    }

    fn set_type(&mut self, ty: &Type) {
        self.set("type", &ty.name);
        self.set("plain", &ty.plain);
        self.set("plains", &plural(&ty.plain));
        self.set("it", &ty.plain.replace(' ', "_"));
        self.set("item", ty.item);
        self.set("items", &plural(ty.item));
        self.set("Item", &capital(ty.item));
        self.set("verb", ty.verbs[0].name);
    }

    fn set_verb(&mut self, verb: &Verb) {
        self.set("verb", verb.name);
        self.set("error", verb.error);
    }

    /// Draws numbers for the words that a text may use, different ones each time.
    fn draw_numbers(&mut self) {
        let (a, b) = (2 + self.random.below(40), 1 + self.random.below(9));
        self.set("a", &a.to_string());
        self.set("b", &b.to_string());
        self.set("sum", &(a + b).to_string());
        self.set("difference", &a.abs_diff(b).to_string());
        self.set("product", &(a * b).to_string());
        self.set("quotient", &(a / b).to_string());
        self.set("remainder", &(a % b).to_string());
        self.set("larger", &a.max(b).to_string());
        let n: usize = 1 << self.random.below(12);
        self.set("n", &n.to_string());
        let units = self.random.choose(&[
            "pairs",
            "batches of eight",
            "dozens",
            "small groups",
            "a single pass",
            "chunks",
            "threes",
        ]);
        self.set("units", units);
    }

    /// A text of the grammar, with this page's words.
    fn expand(&mut self, grammar: &str) -> String {
        self.draw_numbers();
        let mut out = String::new();
        let mut rest = grammar;
        while let Some(at) = rest.find(['[', '{']) {
            out.push_str(&rest[..at]);
            let (open, close) = if rest[at..].starts_with('[') { ('[', ']') } else { ('{', '}') };
            let end =
                at + rest[at..].find(close).unwrap_or_else(|| panic!("`{open}` is closed in `{grammar}`"));
            let inner = &rest[at + 1..end];
            rest = &rest[end + 1..];
            if open == '[' {
                let choices: Vec<&str> = inner.split('|').collect();
                let chosen = self.random.choose(&choices);
                out.push_str(&self.fill(chosen));
            } else {
                out.push_str(&self.words[inner]);
            }
        }
        out.push_str(rest);
        for vowel in ["a", "e", "i", "o", "u"] {
            out = out.replace(&format!(" a {vowel}"), &format!(" an {vowel}"));
            out = out.replace(&format!("A {vowel}"), &format!("An {vowel}"));
        }
        out
    }

    fn fill(&self, text: &str) -> String {
        let mut parts = text.split(['{', '}']);
        let mut out = parts.next().unwrap_or_default().to_owned();
        while let (Some(word), Some(plain)) = (parts.next(), parts.next()) {
            out.push_str(&self.words[word]);
            out.push_str(plain);
        }
        out
    }

    fn heading(&mut self, level: usize, grammar: &str) {
        let text = self.expand(grammar);
        self.body += &format!("<h{level}>{}</h{level}>\n", escape(&text));
        if level == 1 {
            self.title = text;
        }
    }

    fn paragraph(&mut self, text: &str) {
        // Backticks mark code, as in Markdown.
        let html: String = escape(text)
            .split('`')
            .enumerate()
            .map(|(i, part)| if i % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() })
            .collect();
        self.body += &format!("<p>{html}</p>\n");
    }

    fn say(&mut self, grammar: &str) {
        let text = self.expand(grammar);
        self.paragraph(&text);
    }

    fn remarks(&mut self, n: usize) {
        for _ in 0..n {
            let grammar = self.random.choose(&REMARKS);
            self.say(grammar);
        }
    }

    fn code(&mut self, code: &str) {
        self.body += &format!("<pre class=\"rust\"><code>{}</code></pre>\n", escape(code));
    }

    fn example(&mut self, verb: &Verb) {
        // In code, braces stand for themselves: `<<name>>` is a word of the page.
        self.draw_numbers();
        let mut code = verb.example.to_owned();
        for (name, value) in &self.words {
            code = code.replace(&format!("<<{name}>>"), value);
        }
        self.code(&code);
    }

    /// The page within all that surrounds it on a site.
    fn finish(&self, library: &Library) -> String {
        let link = |module: &Module| format!("<li><a href=\"../{0}/index.html\">{0}</a></li>", module.name);
        let modules: String = library.modules.iter().map(link).collect();
        let (title, body, name) = (escape(&self.title), &self.body, &library.name);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} - {name}</title>\n\
             <link rel=\"stylesheet\" href=\"../style.css\"><script>window.page = {{theme: \"light\"}};</script>\n\
             </head><body><header class=\"topbar\"><a href=\"../index.html\">{name}</a> <form><input type=\"search\" \
             placeholder=\"Search the docs\"></form></header>\n<nav class=\"sidebar\"><h2>All modules</h2><ul>{modules}\
             </ul></nav>\n<main><article>\n{body}</article></main>\n<aside class=\"toc\"><p>On this page</p></aside>\n\
             <footer><p>Made with the {name} documentation builder. Cookie settings. Report an issue.</p></footer>\n\
             <script>document.querySelectorAll(\"pre\").forEach(p =&gt; p.tabIndex = 0);</script></body></html>\n"
        )
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

fn plural(word: &str) -> String {
    match word {
        word if word.ends_with("lf") || word.ends_with("leaf") => format!("{}ves", &word[..word.len() - 1]),
        word if word.ends_with("ry") => format!("{}ies", &word[..word.len() - 1]),
        word if word.ends_with("ch") => format!("{word}es"),
        word => format!("{word}s"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_replaced_but_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("site");
        let make =
            |pages| generate(&site, &SiteSettings { pages, ..SiteSettings::default() }, &crate::silent);
        assert_eq!(make(300).unwrap().pages, 300);
        assert_eq!(make(20).unwrap().pages, 20);
        assert_eq!(crate::Source::detect(&site).unwrap().n_files(), 20);
        fs::remove_file(site.join(SITE)).unwrap();
        assert!(make(20).unwrap_err().to_string().contains("a site made before"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_grammar_is_closed_and_knows_its_words() {
        for seed in 0..3 {
            let library = Library::new(seed, 2000);
            for i in 0..library.plan.len() {
                let (_, html) = library.page(i);
                assert!(!html.contains("<<") && !html.contains(" a o") && html.contains("<h1>"), "{html}");
            }
        }
    }
}
