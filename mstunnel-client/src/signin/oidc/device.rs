//! The device flow: a short code, typed at any browser, while we ask now and then.

use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, Json, printable};
use super::{OidcClient, OidcError};

/// The grant's name (RFC 8628 section 3.4).
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// How long a code is waited for, whatever the issuer says.
const MAX_WAIT: Duration = Duration::from_secs(15 * 60);

/// Between two questions, when the issuer names no interval (RFC 8628 section 3.2), and at most.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

pub(super) async fn run(
    client: &OidcClient,
    endpoint: &Endpoint,
    discovery: &Json,
    say: &(dyn Fn(&str) + Send + Sync),
) -> Result<Json, OidcError> {
    let start = Instant::now();
    let url = discovery.endpoint("device_authorization_endpoint")?;
    let token_url = discovery.endpoint("token_endpoint")?;
    let begun = endpoint.post(&url, &[("client_id", &client.client_id), ("scope", &client.scope)]).await?;
    if !begun.is_success {
        return Err(begun.refusal());
    }
    let missing = |what| OidcError::Answer { url: url.clone(), what };
    let device_code = begun.text("device_code").ok_or_else(|| missing("device_code"))?;
    let user_code = begun.text("user_code").ok_or_else(|| missing("user_code"))?;
    let page = begun.text("verification_uri").ok_or_else(|| missing("verification_uri"))?;
    say(&format!("to sign in, open {} and enter the code {}", printable(page), printable(user_code)));
    let limit = begun.seconds("expires_in").map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT);
    let mut interval = begun.seconds("interval").map_or(INTERVAL.0, Duration::from_secs);
    interval = interval.clamp(Duration::from_secs(1), INTERVAL.1);
    let form = [("grant_type", GRANT), ("device_code", device_code), ("client_id", &client.client_id)];
    while start.elapsed() < limit {
        tokio::time::sleep(interval).await;
        let answer = endpoint.post(&token_url, &form).await?;
        if answer.is_success {
            return Ok(answer);
        }
        match answer.text("error") {
            Some("authorization_pending") => {}
            Some("slow_down") => interval = (interval + Duration::from_secs(5)).min(INTERVAL.1),
            _ => return Err(answer.refusal()),
        }
    }
    Err(OidcError::TimedOut(limit.as_secs()))
}
