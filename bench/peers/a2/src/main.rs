//! a2: one client with one connection on a single-threaded runtime, many sends in flight.

use std::env;
use std::fs::{self, File};
use std::io;

use a2::request::payload::PayloadLike;
use a2::{Client, ClientConfig, Endpoint, Error, NotificationOptions, PushType};
use futures_util::stream::{self, StreamExt};
use serde::Serialize;

const IN_FLIGHT: usize = 300;

/// A payload that is ready-made: nothing of it is serialised for each push.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    json: &'a str,
    token: &'a str,
    #[serde(skip)]
    options: NotificationOptions<'a>,
}

impl PayloadLike for Ready<'_> {
    fn to_json_string(&self) -> Result<String, Error> {
        Ok(self.json.to_owned())
    }

    fn get_device_token(&self) -> &str {
        self.token
    }

    fn get_options(&self) -> &NotificationOptions<'_> {
        &self.options
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let targets = fs::read_to_string(env::var("TARGETS")?)?;
    let targets: Vec<&str> = targets.split('\n').collect();
    let warm_up: usize = env::var("WARM_UP")?.parse()?;
    let payload = fs::read_to_string(env::var("PAYLOAD")?)?;
    let topic = env::var("TOPIC")?;
    let key = File::open(env::var("KEY_FILE")?)?;
    let config = ClientConfig::new(Endpoint::Production);
    let client = Client::token(key, env::var("KEY_ID")?, env::var("TEAM_ID")?, config)?;
    let prepared: Vec<Ready> = targets
        .iter()
        .map(|&token| Ready {
            json: &payload,
            token,
            options: NotificationOptions {
                apns_topic: Some(&topic),
                apns_push_type: Some(PushType::Alert),
                ..Default::default()
            },
        })
        .collect();

    let mut prepared = prepared.into_iter();
    // The connection is opened by one push: many at once would each try to.
    send(&client, prepared.by_ref().take(1)).await;
    send(&client, prepared.by_ref().take(warm_up - 1)).await;
    mark("ready")?;
    let accepted = send(&client, prepared).await;
    mark(&format!("done {accepted}"))?;
    Ok(())
}

async fn send<'a>(client: &Client, prepared: impl Iterator<Item = Ready<'a>>) -> usize {
    stream::iter(prepared)
        .map(|payload| client.send(payload))
        .buffer_unordered(IN_FLIGHT)
        .filter(|outcome| std::future::ready(outcome.is_ok()))
        .count()
        .await
}

/// Says where the program is, and waits until it has been measured there.
fn mark(line: &str) -> io::Result<()> {
    println!("{line}");
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}
