//! How the issuer gives tokens: an authorization code with its proof (PKCE), or a device code that a person
//! has approved.
//!
//! | a client must | else |
//! | --- | --- |
//! | name itself as [`Issuer::AUDIENCE`](crate::Issuer::AUDIENCE) | `invalid_client` |
//! | bring the verifier of its challenge, and the same redirect, once | `invalid_grant` |
//! | wait until a person has approved its device | `authorization_pending` |
//!
//! # Source
//! RFC 6749 section 4.1, RFC 7636, RFC 8252, RFC 8628.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::issuer::Issuer;

/// The person who signs in at `/authorize`.
const BROWSER_USER: &str = "ann@corp.example";

/// What an endpoint answers.
pub(crate) enum Outcome {
    Answer(Value),
    Redirect(String),
    Error(&'static str),
    NotFound,
}

/// Everything that was asked for and not yet fetched.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    codes: BTreeMap<String, Code>,
    devices: BTreeMap<String, Device>,
    count: usize,
    pub(crate) given: Vec<String>,
    pub(crate) refusals: Vec<&'static str>,
}

#[derive(Debug)]
struct Code {
    challenge: String,
    redirect: String,
}

#[derive(Debug)]
struct Device {
    user_code: String,
    user: Option<String>,
}

impl Grants {
    /// The page at which a person signs in; this one needs no password.
    pub(crate) fn authorize(&mut self, query: &str) -> Outcome {
        let query = form(query);
        let value = |name: &str| query.get(name).cloned().unwrap_or_default();
        let redirect = value("redirect_uri");
        if value("client_id") != Issuer::AUDIENCE {
            return self.refuse("invalid_client");
        }
        if value("response_type") != "code"
            || value("code_challenge_method") != "S256"
            || value("code_challenge").len() != 43
            || value("state").len() < 16
            || !redirect.starts_with("http://127.0.0.1:")
        {
            return self.refuse("invalid_request");
        }
        self.count += 1;
        let name = format!("code/{}+", self.count);
        self.codes
            .insert(name.clone(), Code { challenge: value("code_challenge"), redirect: redirect.clone() });
        Outcome::Redirect(format!("{redirect}?code=code%2F{}%2B&state={}", self.count, value("state")))
    }

    /// The device authorization endpoint.
    pub(crate) fn device(&mut self, body: &str, url: &str) -> Outcome {
        if form(body).get("client_id").map(String::as_str) != Some(Issuer::AUDIENCE) {
            return self.refuse("invalid_client");
        }
        self.count += 1;
        let (code, user_code) = (format!("device-{}", self.count), format!("WDJB-{:04}", self.count));
        self.devices.insert(code.clone(), Device { user_code: user_code.clone(), user: None });
        Outcome::Answer(json!({
            "device_code": code, "user_code": user_code, "verification_uri": format!("{url}/activate"),
            "interval": 1, "expires_in": 60,
        }))
    }

    /// The person approves the device that shows `user_code`.
    pub(crate) fn approve(&mut self, user_code: &str, user: &str) {
        let device = self.devices.values_mut().find(|device| device.user_code == user_code);
        device.unwrap_or_else(|| panic!("no device shows {user_code}")).user = Some(user.to_owned());
    }

    /// The token endpoint; `sign` makes a token for a user.
    pub(crate) fn token(&mut self, body: &str, sign: impl Fn(&str) -> String) -> Outcome {
        let body = form(body);
        let value = |name: &str| body.get(name).map_or("", String::as_str);
        if value("client_id") != Issuer::AUDIENCE {
            return self.refuse("invalid_client");
        }
        let user = match value("grant_type") {
            "authorization_code" => {
                let Some(code) = self.codes.remove(value("code")) else {
                    return self.refuse("invalid_grant");
                };
                let proof = digest::digest(&digest::SHA256, value("code_verifier").as_bytes());
                if URL_SAFE_NO_PAD.encode(proof) != code.challenge || value("redirect_uri") != code.redirect {
                    return self.refuse("invalid_grant");
                }
                BROWSER_USER.to_owned()
            }
            "urn:ietf:params:oauth:grant-type:device_code" => {
                let name = value("device_code").to_owned();
                let Some(device) = self.devices.get(&name) else { return self.refuse("invalid_grant") };
                let Some(user) = device.user.clone() else { return Outcome::Error("authorization_pending") };
                self.devices.remove(&name);
                user
            }
            _ => return self.refuse("unsupported_grant_type"),
        };
        let token = sign(&user);
        self.given.push(token.clone());
        // An access token that only the issuer can read, as many of them are.
        Outcome::Answer(json!({ "access_token": "opaque", "token_type": "Bearer", "id_token": token }))
    }

    fn refuse(&mut self, error: &'static str) -> Outcome {
        self.refusals.push(error);
        Outcome::Error(error)
    }
}

/// The fields of a query or a form.
fn form(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
