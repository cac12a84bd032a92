//! The three wrappings of a Graph export: a bare object, a list, and an OData envelope.
//!
//! ```text
//! { "id": ... }      [ { "id": ... }, ... ]      { "@odata.context": ..., "value": [ ... ] }
//! ```

use super::json::{Json, Node, Report};

const NEXT_LINK: &str = "@odata.nextLink";

/// The objects inside the wrapping, and whether the wrapping itself came from Graph.
pub(super) struct Unwrapped<'j> {
    pub(super) nodes: Vec<Node<'j>>,
    pub(super) exported: bool,
}

/// Takes the wrapping off; an incomplete export is refused.
pub(super) fn unwrap<'j>(json: &'j Json, report: &mut Report<'_>) -> Unwrapped<'j> {
    let root = Node::root(json);
    match json {
        Json::Array(_) => Unwrapped { nodes: root.items("a list", report), exported: false },
        Json::Object(_) => {
            let envelope =
                matches!(json, Json::Object(members) if members.iter().any(|(name, _)| name == "value"));
            // Doubled names of a bare object are reported by whoever reads it.
            let mut unheard = Report::new("");
            let Some(mut object) = root.object("an object", if envelope { report } else { &mut unheard })
            else {
                return Unwrapped { nodes: Vec::new(), exported: false };
            };
            let exported = object.names().any(|name| name.starts_with("@odata."));
            if object.take(NEXT_LINK).is_some() {
                let want = "a complete export; follow the link and join the pages";
                report.refuse_at(&object.place(NEXT_LINK), "the export is incomplete", want);
            }
            if !envelope {
                return Unwrapped { nodes: vec![root], exported };
            }
            let nodes = match object.demand("value", "a list of objects", report) {
                Some(value) => value.items("a list of objects", report),
                None => Vec::new(),
            };
            Unwrapped { nodes, exported: true }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => {
            report.refuse(&root, "an object, a list of objects, or an OData envelope with \"value\"");
            Unwrapped { nodes: Vec::new(), exported: false }
        }
    }
}

/// Checks an optional `@odata.type`; whether it is there says that Graph wrote the object.
pub(super) fn check_type(node: Option<Node<'_>>, name: &str, report: &mut Report<'_>) -> bool {
    let Some(node) = node else { return false };
    let want = format!("\"#microsoft.graph.{name}\"");
    if let Some(text) = node.text(&want, report) {
        let written = text.strip_prefix('#').unwrap_or(text).strip_prefix("microsoft.graph.");
        if !written.is_some_and(|written| written.eq_ignore_ascii_case(name)) {
            report.refuse(&node, want);
        }
    }
    true
}
