//! web-push: its client on hyper with one HTTP/2 connection; one signature for the origin, a message built for each push.

use std::env;
use std::fs::{self, File};
use std::io;

use futures_util::stream::{self, StreamExt};
use hyper::client::HttpConnector;
use hyper_tls::HttpsConnector;
use native_tls::{Certificate, TlsConnector};
use web_push::{
    ContentEncoding, HyperWebPushClient, SubscriptionInfo, VapidSignature, VapidSignatureBuilder, WebPushClient,
    WebPushError, WebPushMessageBuilder,
};

const IN_FLIGHT: usize = 100;

struct Sender {
    client: HyperWebPushClient,
    signature: VapidSignature,
    payload: Vec<u8>,
}

impl Sender {
    async fn send(&self, subscription: &SubscriptionInfo) -> Result<(), WebPushError> {
        let mut message = WebPushMessageBuilder::new(subscription);
        message.set_ttl(3600);
        message.set_payload(ContentEncoding::Aes128Gcm, &self.payload);
        message.set_vapid_signature(self.signature.clone());
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
    let subscriptions: Vec<SubscriptionInfo> = targets
        .split('\n')
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let (warm_up, counted) = subscriptions.split_at(env::var("WARM_UP")?.parse()?);
    let authority = Certificate::from_pem(&fs::read(env::var("CA_FILE")?)?)?;
    let tls = TlsConnector::builder()
        .add_root_certificate(authority)
        .request_alpns(&["h2"])
        .build()?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let connector = HttpsConnector::from((tcp, tls.into()));
    let http = hyper::Client::builder().http2_only(true).build(connector);
    let sender = Sender {
        client: HyperWebPushClient::from(http),
        signature: sign(&subscriptions[0])?,
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

/// What a service takes for half a day, of all subscriptions with its origin (RFC 8292, section 2).
fn sign(subscription: &SubscriptionInfo) -> Result<VapidSignature, Box<dyn std::error::Error>> {
    let key = File::open(env::var("VAPID_KEY_FILE")?)?;
    let mut builder = VapidSignatureBuilder::from_pem(key, subscription)?;
    builder.add_claim("sub", env::var("SUBJECT")?);
    Ok(builder.build()?)
}

/// Says where the program is, and waits until it has been measured there.
fn mark(line: &str) -> io::Result<()> {
    println!("{line}");
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}
