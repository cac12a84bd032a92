//! HTTPS to an issuer: small JSON documents, bounded in size and time.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use serde_json::Value;

use super::OidcError;

/// The longest document; tokens with many claims have some kilobytes.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// How long an issuer may take for one answer.
const LIMIT: Duration = Duration::from_secs(20);

/// The most characters of an issuer's text that are shown.
const MAX_TEXT_CHARS: usize = 300;

/// Asks endpoints.
pub(super) struct Endpoint(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// A JSON object, and who said it.
pub(super) struct Json {
    value: Value,
    url: String,
    pub(super) is_success: bool,
}

impl Json {
    /// A string member.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value.get(name).and_then(Value::as_str)
    }

    /// A number of seconds.
    pub(super) fn seconds(&self, name: &str) -> Option<u64> {
        self.value.get(name).and_then(Value::as_u64)
    }

    /// A member that is an https URL.
    pub(super) fn endpoint(&self, name: &'static str) -> Result<String, OidcError> {
        let url = self.text(name).ok_or_else(|| OidcError::Answer { url: self.url.clone(), what: name })?;
        checked(url).map(|_| url.to_owned())
    }

    /// Who said it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// What the issuer says went wrong, printable.
    pub(super) fn refusal(&self) -> OidcError {
        let text = self.text("error_description").or_else(|| self.text("error")).unwrap_or("no reason given");
        OidcError::Refused(printable(text))
    }
}

/// A text of an issuer for a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT_CHARS).collect()
}

/// A URL that may be asked: `https`, a host, no user.
fn checked(url: &str) -> Result<Uri, OidcError> {
    let refused = || OidcError::Url { url: printable(url) };
    let uri: Uri = url.parse().map_err(|_| refused())?;
    let authority = uri.authority().ok_or_else(refused)?;
    if uri.scheme_str() != Some("https") || authority.as_str().contains('@') {
        return Err(refused());
    }
    Ok(uri)
}

impl Endpoint {
    pub(super) fn new(tls: ClientConfig) -> Self {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .build();
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Fetches a document.
    pub(super) async fn get(&self, url: &str) -> Result<Json, OidcError> {
        let answer = self.ask(Method::GET, url, String::new()).await?;
        if !answer.is_success {
            return Err(OidcError::Answer { url: url.to_owned(), what: "success" });
        }
        Ok(answer)
    }

    /// Posts a form; an answer that is an error is an answer.
    pub(super) async fn post(&self, url: &str, form: &[(&str, &str)]) -> Result<Json, OidcError> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.ask(Method::POST, url, body).await
    }

    async fn ask(&self, method: Method, url: &str, body: String) -> Result<Json, OidcError> {
        let failed = |why: String| OidcError::Fetch { url: url.to_owned(), why };
        let request = Request::builder()
            .method(method)
            .uri(checked(url)?)
            .header("Accept", "application/json")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(Full::from(body))
            .map_err(|error| failed(error.to_string()))?;
        let fetch = async {
            let response = self.0.request(request).await.map_err(|error| failed(chain(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
            let body = body.collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
            Ok::<_, OidcError>((status, body))
        };
        let (status, body) = tokio::time::timeout(LIMIT, fetch)
            .await
            .map_err(|_| failed(format!("no answer within {} s", LIMIT.as_secs())))??;
        let value: Value = serde_json::from_slice(&body)
            .map_err(|_| OidcError::Answer { url: url.to_owned(), what: "a JSON document" })?;
        Ok(Json { value, url: url.to_owned(), is_success: status.is_success() })
    }
}

/// An error with what caused it: "connect error" alone helps nobody.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R61, R62
    #[test]
    fn only_https_endpoints_are_asked_and_texts_are_printable() {
        assert!(checked("https://login.example/token").is_ok());
        for url in ["http://login.example/", "https://a:b@login.example/", "/token", "", "file:///etc/passwd"]
        {
            assert!(matches!(checked(url), Err(OidcError::Url { .. })), "{url}");
        }
        assert_eq!(printable("a\u{1b}[31mb\n"), "a [31mb ");
        assert_eq!(printable(&"x".repeat(1000)).len(), MAX_TEXT_CHARS);
    }
}
