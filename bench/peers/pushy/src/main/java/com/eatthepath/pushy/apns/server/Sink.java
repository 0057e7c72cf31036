package com.eatthepath.pushy.apns.server;

import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelPipeline;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.epoll.EpollEventLoopGroup;
import io.netty.handler.codec.http2.AbstractHttp2ConnectionHandlerBuilder;
import io.netty.handler.codec.http2.Http2ConnectionDecoder;
import io.netty.handler.codec.http2.Http2ConnectionEncoder;
import io.netty.handler.codec.http2.Http2Headers;
import io.netty.handler.codec.http2.Http2Settings;
import io.netty.handler.ssl.SslContext;
import java.io.BufferedWriter;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import javax.net.ssl.SSLSession;

/**
 * pushy's benchmark server, which answers 200 to everything, with a journal of what it was asked: the service's side of
 * a ledger. It stands in pushy's package because nothing else may extend its handler.
 */
public final class Sink extends BenchmarkApnsServer {
    private static final int STREAMS = 1000;

    private final BufferedWriter journal;

    private Sink(SslContext context, EventLoopGroup loops, BufferedWriter journal) {
        super(context, loops, STREAMS);
        this.journal = journal;
    }

    /** Arguments: port, certificate and key (PEM), journal. Prints a line once it listens; SIGTERM ends it. */
    public static void main(String[] arguments) throws Exception {
        final BufferedWriter journal = Files.newBufferedWriter(Path.of(arguments[3]));
        final BenchmarkApnsServerBuilder builder = new BenchmarkApnsServerBuilder() {
            @Override
            protected BenchmarkApnsServer constructServer(SslContext context) {
                return new Sink(context, new EpollEventLoopGroup(1), journal);
            }
        };
        final BenchmarkApnsServer server = builder
                .setServerCredentials(new File(arguments[1]), new File(arguments[2]), null)
                .setUseAlpn(true)
                .build();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                server.shutdown().join();
                journal.close();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }));
        server.start(Integer.parseInt(arguments[0])).get();
        System.out.println("{\"ready\": true}");
        Thread.currentThread().join();
    }

    @Override
    protected void addHandlersToPipeline(SSLSession session, ChannelPipeline pipeline) {
        pipeline.addLast(new Builder().build());
    }

    private final class Builder extends AbstractHttp2ConnectionHandlerBuilder<Handler, Builder> {
        @Override
        protected Handler build() {
            initialSettings().maxConcurrentStreams(STREAMS);
            return super.build();
        }

        @Override
        protected Handler build(Http2ConnectionDecoder decoder, Http2ConnectionEncoder encoder, Http2Settings settings) {
            final Handler handler = new Handler(decoder, encoder, settings);
            frameListener(handler);
            return handler;
        }
    }

    private final class Handler extends BenchmarkApnsServerHandler {
        private Handler(Http2ConnectionDecoder decoder, Http2ConnectionEncoder encoder, Http2Settings settings) {
            super(decoder, encoder, settings);
        }

        @Override
        public void onHeadersRead(
                ChannelHandlerContext context, int stream, Http2Headers headers, int padding, boolean last) {
            try {
                journal.append(headers.get("apns-id")).append('\n');
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            super.onHeadersRead(context, stream, headers, padding, last);
        }
    }
}
