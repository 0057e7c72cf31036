import com.eatthepath.pushy.apns.ApnsClient;
import com.eatthepath.pushy.apns.ApnsClientBuilder;
import com.eatthepath.pushy.apns.auth.ApnsSigningKey;
import com.eatthepath.pushy.apns.util.SimpleApnsPushNotification;
import io.netty.channel.epoll.EpollEventLoopGroup;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;

/** pushy: one client, one connection, one event loop; futures with follow-ups and a semaphore for flow control. */
public final class Send {
    private static final int IN_FLIGHT = 1000;

    /** On one core the compiler is behind: what it still has to do after the warm-up is not the client's cost. */
    private static final int BACKLOG_MILLISECONDS = 2_000;

    public static void main(String[] arguments) throws Exception {
        final List<String> targets = Files.readAllLines(Path.of(environment("TARGETS")));
        final int warmUp = Integer.parseInt(environment("WARM_UP"));
        final List<SimpleApnsPushNotification> notifications = prepare(targets);
        final EpollEventLoopGroup loops = new EpollEventLoopGroup(1);
        final ApnsClient client = new ApnsClientBuilder()
                .setApnsServer(environment("SINK_HOST"), Integer.parseInt(environment("SINK_PORT")))
                .setTrustedServerCertificateChain(new File(environment("CA_FILE")))
                .setSigningKey(ApnsSigningKey.loadFromPkcs8File(
                        new File(environment("KEY_FILE")), environment("TEAM_ID"), environment("KEY_ID")))
                .setEventLoopGroup(loops)
                .setConcurrentConnections(1)
                .build();
        send(client, notifications.subList(0, warmUp));
        Thread.sleep(BACKLOG_MILLISECONDS);
        mark("ready");
        mark("done " + send(client, notifications.subList(warmUp, notifications.size())));
        client.close().get();
        loops.shutdownGracefully().get();
    }

    private static List<SimpleApnsPushNotification> prepare(List<String> targets) throws Exception {
        final String topic = environment("TOPIC");
        final String payload = Files.readString(Path.of(environment("PAYLOAD")));
        final List<SimpleApnsPushNotification> notifications = new ArrayList<>(targets.size());
        for (final String target : targets) {
            notifications.add(new SimpleApnsPushNotification(target, topic, payload));
        }
        return notifications;
    }

    private static int send(ApnsClient client, List<SimpleApnsPushNotification> notifications) throws Exception {
        final Semaphore inFlight = new Semaphore(IN_FLIGHT);
        final AtomicInteger accepted = new AtomicInteger();
        for (final SimpleApnsPushNotification notification : notifications) {
            inFlight.acquire();
            client.sendNotification(notification).whenComplete((response, cause) -> {
                if (response != null && response.isAccepted()) {
                    accepted.incrementAndGet();
                }
                inFlight.release();
            });
        }
        inFlight.acquire(IN_FLIGHT);
        return accepted.get();
    }

    /** Says where the program is, and waits until it has been measured there. */
    private static void mark(String line) throws Exception {
        System.out.println(line);
        System.out.flush();
        while (System.in.read() != '\n') {
            // The runner answers with one line.
        }
    }

    private static String environment(String name) {
        return System.getenv(name);
    }
}
