//! The issuer's discovery document: who it is, and where its keys are.
//!
//! The issuer's name is pinned: by the configuration if that has one, else by the first document
//! that was read (or kept from the last run). A document that names another is refused, so that a
//! host that is taken over for an hour cannot move us to an issuer of its own. The keys may be on
//! another host than the document (several providers do that), named by the document alone and
//! reached over verified TLS as well.
//!
//! # Source
//! OpenID Connect Discovery 1.0 section 3 and 4.3; threats.md R38.

use hyper::Uri;
use serde_json::Value;

use super::config::https_url;
use super::json;

/// The longest issuer name; it is compared with every token.
const MAX_ISSUER_BYTES: usize = 2048;

/// What we need of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Discovery {
    pub(super) issuer: String,
    pub(super) jwks_uri: Uri,
}

/// Why a discovery document is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error("discovery document is not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("discovery document has no usable {0:?}")]
    Member(&'static str),
    #[error("discovery document has jwks_uri {0}")]
    JwksUri(String),
    #[error("discovery document is for every tenant; name one tenant in openid_configuration_url")]
    Template,
    #[error(
        "discovery document is of issuer {found:?}, want {want:?} (if the issuer has a new name, put it into \
         oidc.json as \"issuer\")"
    )]
    OtherIssuer { found: String, want: String },
}

impl Discovery {
    /// Reads a document, which must be of the issuer `pinned` if there is one.
    ///
    /// # Errors
    /// If a member is missing or unusable, or the document is of another issuer.
    pub(super) fn parse(text: &[u8], pinned: Option<&str>) -> Result<Self, DiscoveryError> {
        let document = json::parse_object(text)?;
        let text = |member: &'static str| match document.get(member) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            _ => Err(DiscoveryError::Member(member)),
        };
        let issuer = text("issuer")?;
        if issuer.contains('{') {
            return Err(DiscoveryError::Template);
        }
        if issuer.len() > MAX_ISSUER_BYTES || issuer.chars().any(char::is_control) {
            return Err(DiscoveryError::Member("issuer"));
        }
        if let Some(want) = pinned
            && want != issuer
        {
            return Err(DiscoveryError::OtherIssuer { found: issuer.clone(), want: want.to_owned() });
        }
        let jwks_uri = https_url(text("jwks_uri")?).map_err(DiscoveryError::JwksUri)?;
        Ok(Self { issuer: issuer.clone(), jwks_uri })
    }

    /// Whether the document stands where an issuer of this name keeps it.
    pub(super) fn is_where_it_belongs(&self, url: &Uri) -> bool {
        url.to_string().strip_suffix("/.well-known/openid-configuration")
            == Some(self.issuer.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value, pinned: Option<&str>) -> Result<Discovery, DiscoveryError> {
        Discovery::parse(value.to_string().as_bytes(), pinned)
    }

    fn document() -> Value {
        json!({
            "issuer": "https://login.example/t",
            "jwks_uri": "https://keys.example/t/keys",
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }

    /// Covers: R38
    #[test]
    fn a_document_of_another_issuer_than_the_pinned_one_is_refused() {
        assert!(parse(&document(), None).is_ok());
        assert!(parse(&document(), Some("https://login.example/t")).is_ok());
        for other in ["https://login.example/t/", "https://login.example/T", "https://evil.example/t", ""] {
            let error = parse(&document(), Some(other)).unwrap_err();
            assert!(matches!(error, DiscoveryError::OtherIssuer { .. }), "{other}");
        }
    }

    /// Covers: R38, P-060
    #[test]
    fn keys_are_only_taken_from_https() {
        for uri in ["http://login.example/keys", "file:///keys", "//login.example/keys", "https://a@b/keys"] {
            let mut document = document();
            document["jwks_uri"] = json!(uri);
            assert!(matches!(parse(&document, None), Err(DiscoveryError::JwksUri(_))), "{uri}");
        }
    }

    #[test]
    fn a_document_without_its_members_or_for_every_tenant_is_refused() {
        for member in ["issuer", "jwks_uri"] {
            for value in [json!(null), json!(""), json!(["x"]), json!(1)] {
                let mut document = document();
                document[member] = value;
                let error = parse(&document, None).unwrap_err();
                assert!(matches!(error, DiscoveryError::Member(found) if found == member));
            }
        }
        let mut every = document();
        every["issuer"] = json!("https://login.example/{tenantid}/v2.0");
        assert!(matches!(parse(&every, None), Err(DiscoveryError::Template)));
        for text in ["", "<html>", "[]"] {
            assert!(matches!(Discovery::parse(text.as_bytes(), None), Err(DiscoveryError::Json(_))));
        }
    }

    #[test]
    fn the_place_of_a_document_follows_from_its_issuer() {
        let discovery = parse(&document(), None).unwrap();
        let at = |url: &str| discovery.is_where_it_belongs(&url.parse().unwrap());
        assert!(at("https://login.example/t/.well-known/openid-configuration"));
        assert!(!at("https://login.example/u/.well-known/openid-configuration"));
        assert!(!at("https://login.example/t"));
    }
}
