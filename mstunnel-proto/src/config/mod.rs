//! The configuration of a server as Microsoft Graph exports it, and the site it belongs to.
//!
//! | input | read by |
//! | --- | --- |
//! | `microsoftTunnelConfiguration`: bare object, list, or OData envelope | [`Configuration::parse`] |
//! | `admin-settings.json` of an existing installation (PascalCase) | [`Configuration::parse`] |
//! | `microsoftTunnelSite`, in the same three wrappings | [`Site::parse`] |
//!
//! Rules for all of them: every problem is reported, with a JSON pointer and its line; `null` is
//! absent; unknown names are kept and reported once as a warning with the nearest known name;
//! OData annotations are ignored, except that a `@odata.nextLink` means an incomplete export;
//! numbers may be strings only inside `advancedSettings`.
//!
//! # Source
//! product.md b.1, b.2, b.5, b.6.

mod admin_settings;
mod advanced;
mod configuration;
mod json;
mod locate;
mod names;
mod networks;
mod odata;
mod problem;
mod site;

pub use advanced::{Advanced, RekeyMethod, TlsVersion};
pub use configuration::{Configuration, DEFAULT_PORT, Selection};
pub use json::MAX_FILE_LEN;
pub use networks::DEFAULT_MAX_RULES;
pub use problem::{MAX_PROBLEMS, MAX_VALUE_CHARS, Parsed, Problem, Problems, nearest};
pub use site::{Site, UpgradeWindow};

#[cfg(test)]
mod tests;
