//! `oidc.json`: ocserv's file, and what we add to it.
//!
//! | key | meaning | default |
//! | --- | --- | --- |
//! | `openid_configuration_url` | the issuer's discovery document, `https` | mandatory |
//! | `user_name_claim` | the claim with the user's name, or several as in `{upn}.{tid}` | mandatory |
//! | `required_claims` | an object: each claim is this value, or an array with it | mandatory |
//! | `minimum_jwk_refresh_time` | seconds between two fetches of the keys | 900 |
//! | `any_of_claims` | an object of arrays: each claim has one of these values | none |
//! | `group_claims` | claims with the user's groups | `groups`, `roles` |
//! | `issuer` | the only issuer, whatever the discovery document says | `required_claims.iss` |
//! | `algorithms` | the signatures taken | all asymmetric ones we know |
//! | `leeway` | seconds that clocks may differ, at most 60 | 60 |
//! | `maximum_token_age` | seconds after `iat` that a token is taken | until `exp` |
//! | `ca_file` | PEM certificates that the issuer's must chain to | the system's |
//! | `unknown_key_refresh_time` | seconds between two fetches for unknown keys | 60 |
//! | `stale_key_time` | seconds that keys stay good while the issuer is away | 86,400 |
//!
//! Every token must have `exp`, `iat`, `iss` and `aud` besides. Which audience is ours only this
//! file can say: without a rule for `aud` a token for any other application of the issuer would
//! do, as with ocserv, so that is a warning. An unknown key is refused: a rule with a typing error
//! would be no rule.
//!
//! # Source
//! product.md b.8; threats.md R37, R38.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::json::{self, Object};

/// The largest configuration file.
pub(super) const MAX_CONFIG_BYTES: usize = 64 * 1024;
/// R37: more would keep expired tokens alive.
const MAX_LEEWAY_SECONDS: u64 = 60;
/// A week: longer than any outage, and than any key should outlive its removal.
const MAX_STALE_SECONDS: u64 = 7 * 86_400;
/// ocserv takes 0 as "whenever it is wanted"; nobody wants keys more often than this.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

const DAY_SECONDS: u64 = 86_400;

/// HMAC has no place here: whoever can check such a token can make one.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

const KEYS: [&str; 13] = [
    "openid_configuration_url",
    "user_name_claim",
    "required_claims",
    "minimum_jwk_refresh_time",
    "any_of_claims",
    "group_claims",
    "issuer",
    "algorithms",
    "leeway",
    "maximum_token_age",
    "ca_file",
    "unknown_key_refresh_time",
    "stale_key_time",
];

/// Why `oidc.json` cannot be used.
#[derive(Debug)]
pub struct OidcConfigError {
    file: PathBuf,
    pointer: String,
    why: String,
}

impl fmt::Display for OidcConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if !self.pointer.is_empty() {
            write!(f, "/{}: ", self.pointer)?;
        }
        f.write_str(&self.why)
    }
}

impl std::error::Error for OidcConfigError {}

impl OidcConfigError {
    pub(super) fn new(file: &Path, pointer: &str, why: impl Into<String>) -> Self {
        Self { file: file.to_owned(), pointer: pointer.to_owned(), why: why.into() }
    }
}

/// What `oidc.json` says.
#[derive(Clone, Debug)]
pub(super) struct OidcConfig {
    pub(super) discovery_url: Uri,
    pub(super) user_name_claim: String,
    pub(super) required_claims: Object,
    pub(super) any_of_claims: Vec<(String, Vec<Value>)>,
    pub(super) group_claims: Vec<String>,
    pub(super) issuer: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) leeway: Duration,
    pub(super) maximum_token_age: Option<Duration>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) refresh_every: Duration,
    pub(super) unknown_key_refresh: Duration,
    pub(super) stale_key_time: Duration,
}

impl OidcConfig {
    /// Reads the text of `file`. The second value are warnings, a line each.
    ///
    /// # Errors
    /// If a key is missing, unknown, or its value makes no sense.
    pub(super) fn parse(text: &[u8], file: &Path) -> Result<(Self, Vec<String>), OidcConfigError> {
        let members = json::parse_object(text)
            .map_err(|error| OidcConfigError::new(file, "", format!("want a JSON object: {error}")))?;
        Reader { file, members }.read()
    }

    /// Whether some rule says which audience is ours.
    fn has_audience_rule(&self) -> bool {
        self.required_claims.contains_key("aud") || self.any_of_claims.iter().any(|(claim, _)| claim == "aud")
    }
}

struct Reader<'a> {
    file: &'a Path,
    members: Object,
}

impl Reader<'_> {
    fn read(self) -> Result<(OidcConfig, Vec<String>), OidcConfigError> {
        if let Some(unknown) = self.members.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(self.error(unknown, format!("unknown key; want one of {}", KEYS.join(", "))));
        }
        let url = self.text("openid_configuration_url")?;
        let required_claims = self
            .object("required_claims")?
            .cloned()
            .ok_or_else(|| self.error("required_claims", "missing; want an object of claims and values"))?;
        let issuer = match (self.optional_text("issuer")?, required_claims.get("iss")) {
            (Some(issuer), Some(Value::String(required))) if *required != issuer => {
                return Err(self.error("issuer", "differs from required_claims.iss"));
            }
            (Some(issuer), _) => Some(issuer),
            (None, Some(Value::String(required))) => Some(required.clone()),
            (None, _) => None,
        };
        let ca_file = self.optional_text("ca_file")?.map(|ca| match self.file.parent() {
            Some(directory) => directory.join(ca),
            None => PathBuf::from(ca),
        });
        let config = OidcConfig {
            discovery_url: https_url(&url).map_err(|why| self.error("openid_configuration_url", why))?,
            user_name_claim: self.text("user_name_claim")?,
            any_of_claims: self.any_of_claims()?,
            group_claims: self
                .texts("group_claims")?
                .unwrap_or_else(|| vec!["groups".to_owned(), "roles".to_owned()]),
            issuer,
            algorithms: self.algorithms()?,
            leeway: self.seconds("leeway", 0, MAX_LEEWAY_SECONDS)?.unwrap_or(Duration::from_secs(60)),
            maximum_token_age: self.seconds("maximum_token_age", 1, 365 * DAY_SECONDS)?,
            ca_file,
            refresh_every: self
                .seconds("minimum_jwk_refresh_time", 0, DAY_SECONDS)?
                .unwrap_or(Duration::from_secs(900))
                .max(SHORTEST_REFRESH),
            unknown_key_refresh: self
                .seconds("unknown_key_refresh_time", 1, 3_600)?
                .unwrap_or(Duration::from_secs(60)),
            stale_key_time: self
                .seconds("stale_key_time", 1, MAX_STALE_SECONDS)?
                .unwrap_or(Duration::from_secs(DAY_SECONDS)),
            required_claims,
        };
        if super::claims::parts(&config.user_name_claim).is_none() {
            return Err(
                self.error("user_name_claim", "braces that do not match; want for example {upn}.{tid}")
            );
        }
        if config.stale_key_time < config.refresh_every {
            return Err(self.error("stale_key_time", "less than minimum_jwk_refresh_time: keys would lapse"));
        }
        let mut warnings = Vec::new();
        let mut warn = |what: &str| warnings.push(format!("{}: {what}", self.file.display()));
        if !config.has_audience_rule() {
            warn(
                "no rule for \"aud\" in required_claims: tokens for any application of the issuer are taken",
            );
        }
        if config.unknown_key_refresh < Duration::from_secs(60) {
            warn("unknown_key_refresh_time below 60: strangers can make us ask the issuer that often");
        }
        Ok((config, warnings))
    }

    fn error(&self, key: &str, why: impl Into<String>) -> OidcConfigError {
        OidcConfigError::new(self.file, key, why)
    }

    fn optional_text(&self, key: &str) -> Result<Option<String>, OidcConfigError> {
        match self.members.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(self.error(key, "want a string that is not empty")),
        }
    }

    fn text(&self, key: &str) -> Result<String, OidcConfigError> {
        self.optional_text(key)?.ok_or_else(|| self.error(key, "missing; want a string"))
    }

    fn object(&self, key: &str) -> Result<Option<&Object>, OidcConfigError> {
        match self.members.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(self.error(key, "want an object")),
        }
    }

    fn texts(&self, key: &str) -> Result<Option<Vec<String>>, OidcConfigError> {
        let want = || self.error(key, "want an array of strings");
        match self.members.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(want))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(_) => Err(want()),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind of value is refused alike")]
    fn any_of_claims(&self) -> Result<Vec<(String, Vec<Value>)>, OidcConfigError> {
        let Some(object) = self.object("any_of_claims")? else { return Ok(Vec::new()) };
        let entry = |(claim, values): (&String, &Value)| match values {
            Value::Array(values) if !values.is_empty() => Ok((claim.clone(), values.clone())),
            _ => Err(self.error(&format!("any_of_claims/{claim}"), "want an array that is not empty")),
        };
        object.iter().map(entry).collect()
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>, OidcConfigError> {
        let Some(names) = self.texts("algorithms")? else {
            return Ok(ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect());
        };
        let known = ALGORITHMS.map(|(name, _)| name).join(", ");
        if names.is_empty() {
            return Err(self.error("algorithms", format!("empty; want some of {known}")));
        }
        let find = |name: &String| {
            let found = algorithm(name);
            found.ok_or_else(|| self.error("algorithms", format!("{name:?} is not one of {known}")))
        };
        names.iter().map(find).collect()
    }

    fn seconds(&self, key: &str, min: u64, max: u64) -> Result<Option<Duration>, OidcConfigError> {
        let Some(value) = self.members.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(seconds) if (min..=max).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(self.error(key, format!("{value}: want seconds, {min} to {max}"))),
        }
    }
}

/// The algorithm of this exact name, if it is an asymmetric one.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// A URL that may be fetched: `https`, a host, no user and no fragment.
pub(super) fn https_url(text: &str) -> Result<Uri, String> {
    let refuse = |why: &str| Err(format!("{text:?}: {why}"));
    if text.contains('#') {
        return refuse("want no fragment");
    }
    let Ok(url) = text.parse::<Uri>() else { return refuse("not a URL") };
    if url.scheme_str() != Some("https") {
        return refuse("want https");
    }
    match url.authority() {
        Some(authority) if !authority.host().is_empty() && !authority.as_str().contains('@') => Ok(url),
        _ => refuse("want a host and no user name"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<(OidcConfig, Vec<String>), String> {
        OidcConfig::parse(value.to_string().as_bytes(), Path::new("/etc/x/oidc.json"))
            .map_err(|e| e.to_string())
    }

    fn with(key: &str, value: Value) -> Result<OidcConfig, String> {
        let mut file = stock();
        file[key] = value;
        parse(&file).map(|(config, _)| config)
    }

    /// What ocserv's documentation has, with other names.
    fn stock() -> Value {
        json!({
            "openid_configuration_url": "https://login.example/tenant/.well-known/openid-configuration",
            "user_name_claim": "preferred_username",
            "required_claims": { "aud": "our-app", "iss": "https://login.example/tenant" },
        })
    }

    #[test]
    fn the_stock_file_is_taken_with_our_defaults() {
        let (config, warnings) = parse(&stock()).unwrap();
        assert_eq!(warnings, [""; 0]);
        assert_eq!(config.discovery_url.host(), Some("login.example"));
        assert_eq!(config.user_name_claim, "preferred_username");
        assert_eq!(config.issuer.as_deref(), Some("https://login.example/tenant"));
        assert_eq!(config.refresh_every, Duration::from_secs(900));
        assert_eq!(config.leeway, Duration::from_secs(60));
        assert_eq!(config.unknown_key_refresh, Duration::from_secs(60));
        assert_eq!(config.stale_key_time, Duration::from_secs(86_400));
        assert_eq!(config.maximum_token_age, None);
        assert_eq!(config.group_claims, ["groups", "roles"]);
        assert_eq!(config.algorithms.len(), 9);
        let config = with("minimum_jwk_refresh_time", json!(300)).unwrap();
        assert_eq!(config.refresh_every, Duration::from_secs(300));
    }

    #[test]
    fn every_mandatory_key_is_missed_by_name() {
        for key in ["openid_configuration_url", "user_name_claim", "required_claims"] {
            let mut file = stock();
            file.as_object_mut().unwrap().remove(key);
            let error = parse(&file).unwrap_err();
            assert!(error.starts_with(&format!("/etc/x/oidc.json: /{key}: missing")), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_because_it_may_be_a_rule_with_a_typing_error() {
        let error = with("any_of_claim", json!({})).unwrap_err();
        assert!(error.contains("/any_of_claim: unknown key"), "{error}");
        let twice = br#"{"user_name_claim":"a","user_name_claim":"b"}"#;
        assert!(OidcConfig::parse(twice, Path::new("f")).is_err());
    }

    /// Covers: R37
    #[test]
    fn a_file_without_a_rule_for_the_audience_warns() {
        let mut file = stock();
        file["required_claims"] = json!({});
        assert_eq!(parse(&file).unwrap().1.len(), 1);
        file["any_of_claims"] = json!({ "aud": ["a", "b"] });
        assert_eq!(parse(&file).unwrap().1.len(), 0);
    }

    /// Covers: R38
    #[test]
    fn only_https_urls_of_a_host_are_fetched() {
        for url in [
            "http://login.example/x",
            "HTTP://login.example/x",
            "ftp://login.example/x",
            "file:///etc/passwd",
            "/x",
            "login.example",
            "https://",
            "https:///x",
            "https://user@login.example/x",
            "https://login.example/x#y",
            "https://login.example/ x",
            "",
        ] {
            assert!(https_url(url).is_err(), "{url}");
        }
        for url in ["https://login.example", "https://[::1]:8443/a?b=c", "HTTPS://127.0.0.1/x"] {
            assert!(https_url(url).is_ok(), "{url}");
        }
        assert!(with("openid_configuration_url", json!("http://login.example/x")).is_err());
    }

    /// Covers: P-057, R37
    #[test]
    fn no_configuration_can_allow_hmac_or_none() {
        for name in ["HS256", "HS384", "HS512", "none", "None", "rs256", "RS256 ", ""] {
            assert!(with("algorithms", json!(["RS256", name])).is_err(), "{name}");
        }
        assert!(with("algorithms", json!([])).is_err());
        assert_eq!(with("algorithms", json!(["ES256"])).unwrap().algorithms, [Algorithm::ES256]);
    }

    #[test]
    fn numbers_out_of_range_and_values_of_the_wrong_type_are_refused() {
        for (key, value) in [
            ("leeway", json!(61)),
            ("leeway", json!(-1)),
            ("leeway", json!(1.5)),
            ("leeway", json!("60")),
            ("minimum_jwk_refresh_time", json!(-1)),
            ("unknown_key_refresh_time", json!(0)),
            ("stale_key_time", json!(8 * 86_400)),
            ("stale_key_time", json!(899)),
            ("maximum_token_age", json!(0)),
            ("user_name_claim", json!("")),
            ("user_name_claim", json!("{upn")),
            ("user_name_claim", json!(["sub"])),
            ("required_claims", json!([])),
            ("any_of_claims", json!({ "aud": "x" })),
            ("any_of_claims", json!({ "aud": [] })),
            ("group_claims", json!("groups")),
            ("group_claims", json!([1])),
            ("issuer", json!(1)),
            ("issuer", json!("https://login.example/tenant/")),
            ("ca_file", json!("")),
        ] {
            let error = with(key, value.clone()).unwrap_err();
            assert!(error.contains(&format!("/{key}")), "{key} {value}: {error}");
        }
        assert_eq!(with("leeway", json!(0)).unwrap().leeway, Duration::ZERO);
        assert_eq!(with("ca_file", json!("ca.pem")).unwrap().ca_file.unwrap(), Path::new("/etc/x/ca.pem"));
        assert_eq!(with("ca_file", json!("/ca.pem")).unwrap().ca_file.unwrap(), Path::new("/ca.pem"));
    }
}
