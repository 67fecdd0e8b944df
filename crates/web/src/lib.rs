//! HTML to an arena DOM, main text, WARC: what both curation and crawling stand on.
//!
//! - [`Document`]: a page as a flat tree, built by the parsing algorithm of the HTML standard, with limits on
//!   nodes and depth, so that no page overflows the stack or runs without bound;
//! - [`decode`]: bytes to text, by byte order mark, HTTP hint, `<meta charset>`, or a guess;
//! - [`extract`] and [`main_text`]: what a reader came for, without navigation and other furniture;
//! - [`xpath`]: XPath 1.0 over such a tree;
//! - [`warc`]: crawl archives, record by record, surviving the broken ones.
//!
//! ```
//! let page = elmwood_web::extract(b"<title>Elms</title><nav>Home</nav><main><h1>Elms</h1><p>Tall trees.", None);
//! assert_eq!(page.title.as_deref(), Some("Elms"));
//! assert_eq!(page.text, "Elms\n\nTall trees.");
//! ```

mod boilerplate;
mod dom;
mod element;
mod encoding;
mod main_text;
mod render;
mod rewind;
pub mod warc;
pub mod xpath;

pub use dom::{Ancestors, Attributes, Children, Descendants, Document, Limits, NodeId, NodeKind};
pub use encoding::decode;
pub use main_text::{Page, extract, main_text};
