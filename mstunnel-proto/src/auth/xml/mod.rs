//! The config-auth documents: a bounded reader for what clients send, and the writer of our answers.
//!
//! ```text
//! body ── prologue.rs: "<?xml ...?>" off ── scan.rs: limits, in one pass ── roxmltree ── read.rs: fields
//! ```

mod prologue;
mod read;
mod scan;
mod write;

pub(crate) use read::read;
pub(crate) use write::{Escaped, GroupOptions, password_form, success, username_form};

/// The most nodes: the elements, text before and behind each, and a few comments.
pub(crate) const MAX_NODES: u32 = 2048;

/// Takes the prologue off a document and refuses it by its shape, before a parser sees it.
pub(crate) fn checked(text: &str) -> Result<&str, XmlError> {
    let text = prologue::strip(text)?;
    scan::check(text)?;
    Ok(text)
}

/// Why a body is not a config-auth document that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XmlError {
    /// It is not UTF-8.
    #[error("body is not UTF-8")]
    NotUtf8,
    /// The prologue is endless, or names another encoding than UTF-8.
    #[error("XML prologue is unusable")]
    Prologue,
    /// It holds a document type or another declaration.
    #[error("XML declaration refused")]
    Declaration,
    /// It holds a processing instruction behind the prologue.
    #[error("XML processing instruction refused")]
    ProcessingInstruction,
    /// Elements are nested too deeply.
    #[error("XML nested deeper than {}", scan::MAX_DEPTH)]
    TooDeep,
    /// There are too many elements.
    #[error("XML with more than {} elements", scan::MAX_ELEMENTS)]
    TooManyElements,
    /// An element has too many attributes.
    #[error("XML element with more than {} attributes", scan::MAX_ATTRIBUTES)]
    TooManyAttributes,
    /// An element has too many namespace declarations.
    #[error("XML element with more than {} namespace declarations", scan::MAX_NAMESPACES)]
    TooManyNamespaces,
    /// It is not well-formed.
    #[error("XML is not well-formed")]
    Malformed,
    /// Its root is not `config-auth`.
    #[error("XML root is not config-auth")]
    NotConfigAuth,
    /// A field is there twice, or holds elements.
    #[error("login field is ambiguous")]
    AmbiguousField,
}
