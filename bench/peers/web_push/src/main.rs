//! web-push: its default client with one HTTP/2 connection, the key read once, each message built and signed as it goes.

use std::env;
use std::fs::{self, File};
use std::io;

use futures_util::stream::{self, StreamExt};
use isahc::config::{CaCertificate, Configurable, VersionNegotiation};
use isahc::HttpClient;
use web_push::{
    ContentEncoding, IsahcWebPushClient, PartialVapidSignatureBuilder, SubscriptionInfo, VapidSignatureBuilder,
    WebPushClient, WebPushError, WebPushMessageBuilder,
};

const IN_FLIGHT: usize = 100;

struct Sender {
    client: IsahcWebPushClient,
    key: PartialVapidSignatureBuilder,
    subject: String,
    payload: Vec<u8>,
}

impl Sender {
    async fn send(&self, subscription: &SubscriptionInfo) -> Result<(), WebPushError> {
        let mut signature = self.key.clone().add_sub_info(subscription);
        signature.add_claim("sub", self.subject.as_str());
        let mut message = WebPushMessageBuilder::new(subscription);
        message.set_ttl(3600);
        message.set_payload(ContentEncoding::Aes128Gcm, &self.payload);
        message.set_vapid_signature(signature.build()?);
        self.client.send(message.build()?).await
    }

    async fn send_all(&self, subscriptions: &[SubscriptionInfo]) -> usize {
        stream::iter(subscriptions)
            .map(|subscription| self.send(subscription))
            .buffer_unordered(IN_FLIGHT)
            .filter(|outcome| std::future::ready(outcome.is_ok()))
            .count()
            .await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let targets = fs::read_to_string(env::var("TARGETS")?)?;
    let subscriptions: Vec<SubscriptionInfo> = targets.split('\n').map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (warm_up, counted) = subscriptions.split_at(env::var("WARM_UP")?.parse()?);
    let http = HttpClient::builder()
        .ssl_ca_certificate(CaCertificate::file(env::var("CA_FILE")?))
        .version_negotiation(VersionNegotiation::http2())
        .max_connections(1)
        .build()?;
    let sender = Sender {
        client: IsahcWebPushClient::from(http),
        key: VapidSignatureBuilder::from_pem_no_sub(File::open(env::var("VAPID_KEY_FILE")?)?)?,
        subject: env::var("SUBJECT")?,
        payload: fs::read(env::var("PAYLOAD")?)?,
    };
    // The connection is opened by one push, so that the others share it.
    sender.send_all(&warm_up[..1]).await;
    sender.send_all(&warm_up[1..]).await;
    mark("ready")?;
    let accepted = sender.send_all(counted).await;
    mark(&format!("done {accepted}"))?;
    Ok(())
}

/// Says where the program is, and waits until it has been measured there.
fn mark(line: &str) -> io::Result<()> {
    println!("{line}");
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}
