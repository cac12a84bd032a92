//! What a token says, and whether that is enough.
//!
//! | claim | must be | and |
//! | --- | --- | --- |
//! | `iss` | a string | exactly the issuer |
//! | `aud` | a string, or an array of strings, not empty | as the configured rules say |
//! | `exp` | a whole number | later than now, less the leeway |
//! | `iat` | a whole number | not later than now, plus the leeway |
//! | `nbf` | absent or a whole number | not later than now, plus the leeway |
//!
//! A claim of the wrong type is a refusal, never "absent" (CVE-2026-25537). ocserv wants `nbf` as
//! well; common issuers leave it out, and its absence cannot make a token valid for longer.
//!
//! # Source
//! RFC 7519 section 4.1; threats.md R37, P-059; product.md b.8.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::config::OidcConfig;
use super::json::Object;

/// The longest user name.
pub(super) const MAX_USER_BYTES: usize = 255;
/// The most groups; Entra puts at most 200 into a token.
pub(super) const MAX_GROUPS: usize = 256;
/// The longest name of a group.
const MAX_GROUP_BYTES: usize = 255;

/// Who a good token is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) groups: Vec<String>,
}

/// What is wrong with the claims. Names claims, never their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClaimError {
    #[error("token without usable {0:?}")]
    Missing(String),
    #[error("token of another issuer")]
    Issuer,
    #[error("token expired")]
    Expired,
    #[error("token not valid yet ({0:?})")]
    TooEarly(&'static str),
    #[error("token too old")]
    TooOld,
    #[error("claim {0:?} is not as required")]
    Required(String),
}

/// Judges the claims of a token whose signature is another matter.
///
/// # Errors
/// If a claim is missing, of the wrong type, or not as it must be.
pub(super) fn judge(
    claims: &Object,
    issuer: Option<&str>,
    config: &OidcConfig,
    now: SystemTime,
) -> Result<Identity, ClaimError> {
    let from = claims.get("iss").and_then(Value::as_str).ok_or_else(|| missing("iss"))?;
    if issuer.or(config.issuer.as_deref()).is_some_and(|issuer| issuer != from) {
        return Err(ClaimError::Issuer);
    }
    check_audience(claims.get("aud"))?;
    check_times(claims, config, now)?;
    for (claim, want) in &config.required_claims {
        if !claims.get(claim).is_some_and(|value| holds(value, want)) {
            return Err(ClaimError::Required(claim.clone()));
        }
    }
    for (claim, any) in &config.any_of_claims {
        if !claims.get(claim).is_some_and(|value| any.iter().any(|want| holds(value, want))) {
            return Err(ClaimError::Required(claim.clone()));
        }
    }
    Ok(Identity { user: user_name(claims, config)?, groups: groups(claims, config)? })
}

fn missing(claim: &str) -> ClaimError {
    ClaimError::Missing(claim.to_owned())
}

fn check_audience(audience: Option<&Value>) -> Result<(), ClaimError> {
    let usable = match audience {
        Some(Value::String(one)) => !one.is_empty(),
        Some(Value::Array(all)) => !all.is_empty() && all.iter().all(Value::is_string),
        _ => false,
    };
    if usable { Ok(()) } else { Err(missing("aud")) }
}

fn check_times(claims: &Object, config: &OidcConfig, now: SystemTime) -> Result<(), ClaimError> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = |claim: &'static str| match claims.get(claim) {
        None => Ok(None),
        // Whole seconds only: a fraction or an exponent is a number that readers disagree about.
        Some(value) => value.as_u64().map(|at| Some(Duration::from_secs(at))).ok_or_else(|| missing(claim)),
    };
    let expires = time("exp")?.ok_or_else(|| missing("exp"))?;
    let issued = time("iat")?.ok_or_else(|| missing("iat"))?;
    if expires.saturating_add(config.leeway) <= now {
        return Err(ClaimError::Expired);
    }
    if issued > now.saturating_add(config.leeway) {
        return Err(ClaimError::TooEarly("iat"));
    }
    if time("nbf")?.is_some_and(|from| from > now.saturating_add(config.leeway)) {
        return Err(ClaimError::TooEarly("nbf"));
    }
    if let Some(age) = config.maximum_token_age
        && issued.saturating_add(age).saturating_add(config.leeway) <= now
    {
        return Err(ClaimError::TooOld);
    }
    Ok(())
}

/// Whether a claim is the value wanted, or an array that has it.
fn holds(value: &Value, want: &Value) -> bool {
    value == want || matches!(value, Value::Array(items) if items.contains(want))
}

fn user_name(claims: &Object, config: &OidcConfig) -> Result<String, ClaimError> {
    let template = &config.user_name_claim;
    let mut name = String::new();
    for part in parts(template).ok_or_else(|| missing(template))? {
        match part {
            Part::Text(text) => name.push_str(text),
            Part::Claim(claim) => {
                let value = claims.get(claim).and_then(Value::as_str).filter(|value| !value.is_empty());
                name.push_str(value.ok_or_else(|| missing(claim))?);
            }
        }
    }
    if is_name(&name, MAX_USER_BYTES) { Ok(name) } else { Err(missing(template)) }
}

/// A piece of `user_name_claim`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// Stands for itself.
    Text(&'t str),
    /// Stands for the text of this claim.
    Claim(&'t str),
}

/// Reads `user_name_claim`: a claim's name, or a text with claims' names in braces such as
/// `{preferred_username}.{tid}`. `None` where braces do not match.
pub(super) fn parts(template: &str) -> Option<Vec<Part<'_>>> {
    if !template.contains(['{', '}']) {
        return Some(vec![Part::Claim(template)]);
    }
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, behind)) = rest.split_once('{') {
        let (claim, after) = behind.split_once('}')?;
        if text.contains('}') || claim.is_empty() || claim.contains('{') {
            return None;
        }
        parts.extend((!text.is_empty()).then_some(Part::Text(text)));
        parts.push(Part::Claim(claim));
        rest = after;
    }
    parts.extend((!rest.is_empty()).then_some(Part::Text(rest)));
    (!rest.contains('}')).then_some(parts)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other kind of value is refused alike")]
fn groups(claims: &Object, config: &OidcConfig) -> Result<Vec<String>, ClaimError> {
    let mut groups = Vec::new();
    for claim in &config.group_claims {
        let items = match claims.get(claim) {
            None => continue,
            Some(Value::Array(items)) => items.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        for item in items {
            match item {
                Value::String(name) if is_name(name, MAX_GROUP_BYTES) => {
                    if !groups.contains(name) {
                        groups.push(name.clone());
                    }
                }
                _ => return Err(missing(claim)),
            }
        }
        // A part of the groups could be the part without the one that is refused something.
        if groups.len() > MAX_GROUPS {
            return Err(missing(claim));
        }
    }
    Ok(groups)
}

fn is_name(text: &str, limit: usize) -> bool {
    (1..=limit).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_is_a_claim_or_a_text_with_claims_in_braces() {
        assert_eq!(super::parts("sub"), Some(vec![super::Part::Claim("sub")]));
        let three = vec![super::Part::Claim("upn"), super::Part::Text("."), super::Part::Claim("tid")];
        assert_eq!(super::parts("{upn}.{tid}"), Some(three));
        for bad in ["{upn", "upn}", "{}", "{a{b}}", "a}{b}", "{a}}"] {
            assert_eq!(super::parts(bad), None, "{bad}");
        }
    }

    use serde_json::json;

    use super::*;
    use crate::identity::oidc::testing::{NOW, claims, config};

    const ISSUER: &str = "https://issuer.example";

    fn judge_with(claims: &Value, options: Value) -> Result<Identity, ClaimError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        judge(claims.as_object().unwrap(), Some(ISSUER), &config(options), now)
    }

    fn with(claim: &str, value: Value) -> Result<Identity, ClaimError> {
        let mut claims = claims();
        claims[claim] = value;
        judge_with(&claims, json!({}))
    }

    fn without(claim: &str) -> Result<Identity, ClaimError> {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(claim);
        judge_with(&claims, json!({}))
    }

    #[test]
    fn good_claims_name_the_user_and_the_groups() {
        let mut claims = claims();
        claims["groups"] = json!(["staff", "vpn"]);
        claims["roles"] = json!("vpn");
        let identity = judge_with(&claims, json!({})).unwrap();
        assert_eq!(identity.user, "alice@example.com");
        assert_eq!(identity.groups, ["staff", "vpn"]);
        assert!(without("groups").unwrap().groups.is_empty());
    }

    /// Covers: P-059, R37
    #[test]
    fn a_time_of_the_wrong_type_is_a_refusal_and_not_an_absence() {
        for claim in ["exp", "iat", "nbf"] {
            for value in [
                json!((NOW + 60).to_string()),
                json!(NOW as f64 + 0.5),
                json!(NOW as f64),
                json!(1e300),
                json!(-1),
                json!(null),
                json!(true),
                json!([NOW]),
                json!({}),
            ] {
                assert_eq!(with(claim, value.clone()), Err(missing(claim)), "{claim} {value}");
            }
        }
        assert_eq!(without("exp"), Err(missing("exp")));
        assert_eq!(without("iat"), Err(missing("iat")));
        assert!(without("nbf").is_ok());
    }

    /// Covers: P-059, R37
    #[test]
    fn times_are_judged_with_the_leeway_and_not_a_second_more() {
        for (claim, at, good) in [
            ("exp", NOW - 60, false),
            ("exp", NOW - 59, true),
            ("exp", 0, false),
            ("exp", u64::MAX, true),
            ("nbf", NOW + 60, true),
            ("nbf", NOW + 61, false),
            ("nbf", u64::MAX, false),
            ("iat", NOW + 60, true),
            ("iat", NOW + 61, false),
            ("iat", u64::MAX, false),
            ("iat", 0, true),
        ] {
            assert_eq!(with(claim, json!(at)).is_ok(), good, "{claim} {at}");
        }
        let mut claims = claims();
        claims["exp"] = json!(NOW);
        assert_eq!(judge_with(&claims, json!({"leeway": 0})), Err(ClaimError::Expired));
        claims["exp"] = json!(NOW + 1);
        assert!(judge_with(&claims, json!({"leeway": 0})).is_ok());
    }

    /// Covers: R37
    #[test]
    fn a_token_older_than_the_configured_age_is_refused_though_it_has_not_expired() {
        let mut claims = claims();
        for (issued, good) in [(NOW - 659, true), (NOW - 660, false), (0, false)] {
            claims["iat"] = json!(issued);
            let outcome = judge_with(&claims, json!({"maximum_token_age": 600}));
            assert_eq!(outcome.is_ok(), good, "{issued}");
        }
    }

    /// Covers: P-059, R37
    #[test]
    fn an_issuer_that_is_only_similar_is_another_one() {
        for issuer in [
            "https://issuer.example/",
            "https://ISSUER.example",
            "https://issuer.example.evil",
            "",
            "issuer.example",
        ] {
            assert_eq!(with("iss", json!(issuer)), Err(ClaimError::Issuer), "{issuer}");
        }
        assert_eq!(with("iss", json!([ISSUER])), Err(missing("iss")));
        assert_eq!(without("iss"), Err(missing("iss")));
        // Before the first discovery document the configured name is the measure.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let config = config(json!({"issuer": "https://other.example"}));
        assert_eq!(judge(claims().as_object().unwrap(), None, &config, now), Err(ClaimError::Issuer));
    }

    /// Covers: P-059, R37
    #[test]
    fn the_audience_is_ours_alone_or_among_others() {
        assert!(with("aud", json!("our-app")).is_ok());
        assert!(with("aud", json!(["other", "our-app"])).is_ok());
        for audience in [
            json!("our-app-2"),
            json!("our"),
            json!("Our-App"),
            json!("other our-app"),
            json!(["other"]),
            json!(["our-ap"]),
        ] {
            assert_eq!(
                with("aud", audience.clone()),
                Err(ClaimError::Required("aud".to_owned())),
                "{audience}"
            );
        }
        for audience in [
            json!(""),
            json!([]),
            json!(["our-app", 1]),
            json!([["our-app"]]),
            json!({"our-app": 1}),
            json!(null),
        ] {
            assert_eq!(with("aud", audience.clone()), Err(missing("aud")), "{audience}");
        }
        assert_eq!(without("aud"), Err(missing("aud")));
        // It must be there even where no rule looks at it.
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove("aud");
        assert_eq!(judge_with(&claims, json!({"required_claims": {}})), Err(missing("aud")));
        let any = json!({"required_claims": {}, "any_of_claims": {"aud": ["a", "b"]}});
        for (audience, good) in
            [(json!("a"), true), (json!(["x", "b"]), true), (json!("c"), false), (json!(["x"]), false)]
        {
            claims["aud"] = audience;
            assert_eq!(judge_with(&claims, any.clone()).is_ok(), good);
        }
    }

    #[test]
    fn every_required_claim_must_hold() {
        let options = json!({"required_claims": {"aud": "our-app", "tid": 7, "list": ["a", "b"]}});
        let mut claims = claims();
        assert_eq!(judge_with(&claims, options.clone()), Err(ClaimError::Required("list".to_owned())));
        claims["list"] = json!(["a", "b"]);
        assert_eq!(judge_with(&claims, options.clone()), Err(ClaimError::Required("tid".to_owned())));
        for (tid, good) in [(json!(7), true), (json!([1, 7]), true), (json!("7"), false), (json!(7.0), false)]
        {
            claims["tid"] = tid.clone();
            assert_eq!(judge_with(&claims, options.clone()).is_ok(), good, "{tid}");
        }
        claims["tid"] = json!(7);
        for list in [json!(["a"]), json!(["b", "a"]), json!("a"), json!(["a", "b", "c"])] {
            claims["list"] = list.clone();
            assert!(judge_with(&claims, options.clone()).is_err(), "an array is wanted as it is: {list}");
        }
    }

    #[test]
    fn a_user_name_is_one_short_string_without_control_characters() {
        let claim = "preferred_username";
        for name in [
            json!(""),
            json!("a\nb"),
            json!("a\0"),
            json!("x".repeat(256)),
            json!(["a"]),
            json!(1),
            json!(null),
        ] {
            assert_eq!(with(claim, name.clone()), Err(missing(claim)), "{name}");
        }
        assert_eq!(without(claim), Err(missing(claim)));
        assert_eq!(with(claim, json!("x".repeat(255))).unwrap().user.len(), 255);
    }

    #[test]
    fn groups_are_all_good_names_or_the_token_is_refused() {
        for groups in
            [json!([1]), json!([""]), json!({"a": 1}), json!(["a\n"]), json!(null), json!(["a", ["b"]])]
        {
            assert_eq!(with("groups", groups.clone()), Err(missing("groups")), "{groups}");
        }
        let many = |n: usize| json!((0..n).map(|i| format!("g{i}")).collect::<Vec<_>>());
        assert_eq!(with("groups", many(MAX_GROUPS)).unwrap().groups.len(), MAX_GROUPS);
        assert_eq!(with("groups", many(MAX_GROUPS + 1)), Err(missing("groups")));
        let mut claims = claims();
        claims["groups"] = json!({});
        claims["team"] = json!("blue");
        assert_eq!(judge_with(&claims, json!({"group_claims": ["team"]})).unwrap().groups, ["blue"]);
        assert!(judge_with(&claims, json!({"group_claims": []})).unwrap().groups.is_empty());
    }
}
