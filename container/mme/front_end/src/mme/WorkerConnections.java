package mme;

import com.amazonaws.ml.mms.util.ConfigManager;
import com.amazonaws.ml.mms.util.Connector;
import com.amazonaws.ml.mms.util.codec.ModelResponseDecoder;
import com.amazonaws.ml.mms.util.messages.ModelInferenceRequest;
import com.amazonaws.ml.mms.util.messages.ModelWorkerResponse;
import io.netty.channel.Channel;
import io.netty.channel.ChannelDuplexHandler;
import io.netty.channel.ChannelFuture;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelPromise;
import io.netty.channel.EventLoop;
import io.netty.channel.EventLoopGroup;
import io.netty.util.concurrent.AbstractEventExecutorGroup;
import io.netty.util.concurrent.EventExecutor;
import io.netty.util.concurrent.Future;
import java.io.IOException;
import java.util.Iterator;
import java.util.concurrent.TimeUnit;

/**
 * The event loops of the connections to workers. When a connection is registered it gets our decoder (MMS-8,
 * MMS-13), and who hears the answer to its load, the first one (MMS-11), and that its worker has ended (MMS-33).
 */
final class WorkerConnections extends AbstractEventExecutorGroup implements EventLoopGroup {
    private final EventLoopGroup loops;
    private final int limitBytes;

    WorkerConnections(ConfigManager config) {
        loops = Connector.newEventLoopGroup(config.getNettyClientThreads());
        limitBytes = config.getMaxResponseSize();
    }

    /** Called in the thread that makes the connection, WorkerThread's, when MMS's own initializer is yet to be run. */
    @Override
    public ChannelFuture register(Channel channel) {
        PatchedWorkLoadManager.Run run = PatchedWorkLoadManager.currentRun();
        channel.pipeline().addLast(new Initializer(run));
        return loops.register(channel);
    }

    private final class Initializer extends ChannelInitializer<Channel> {
        private final PatchedWorkLoadManager.Run run;

        Initializer(PatchedWorkLoadManager.Run run) {
            this.run = run;
        }

        @Override
        protected void initChannel(Channel channel) {
            channel.pipeline().replace(ModelResponseDecoder.class, "decoder", new WorkerResponseDecoder(limitBytes));
            channel.pipeline().addAfter("decoder", "run", new Listener(run));
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext ctx, Throwable cause) {
            Agent.fail(cause);
        }
    }

    private static final class Listener extends ChannelDuplexHandler {
        private static final int SESSION_END = 0; // zygote/protocol.py
        private static final int MODEL_LOST = -1;
        private static final int ASLEEP = -2;
        private static final int AWAKE = -3;

        private final PatchedWorkLoadManager.Run run;
        private boolean isLoadAnswered;
        private boolean isAsleep; // no process has begun what is sent from here on

        Listener(PatchedWorkLoadManager.Run run) {
            this.run = run;
        }

        @Override
        public void channelRead(ChannelHandlerContext ctx, Object message) {
            ModelWorkerResponse answer = (ModelWorkerResponse) message;
            if (answer.getCode() == SESSION_END) {
                run.onSessionEnded();
                return;
            }
            if (answer.getCode() == MODEL_LOST) {
                run.onModelLost();
                return;
            }
            isAsleep = answer.getCode() == ASLEEP;
            if (isAsleep) {
                run.statistics.onAsleep();
                return;
            }
            if (answer.getCode() == AWAKE) {
                return;
            }
            if (isLoadAnswered) {
                run.onBatchAnswered(answer);
            } else {
                isLoadAnswered = true;
                run.onLoadAnswered(answer); // before MMS knows, and answers
            }
            ctx.fireChannelRead(message);
        }

        @Override
        public void channelInactive(ChannelHandlerContext ctx) {
            onEnd();
            run.onDisconnected();
            ctx.fireChannelInactive();
        }

        /** MMS closes the connection then. */
        @Override
        @SuppressWarnings("deprecation")
        public void exceptionCaught(ChannelHandlerContext ctx, Throwable cause) {
            if (cause instanceof IOException) {
                onEnd();
            }
            ctx.fireExceptionCaught(cause);
        }

        /** The other side has ended: where it slept, its template has died. */
        private void onEnd() {
            if (isAsleep) {
                run.onSessionEnded();
            }
        }

        /** Called by MMS, which has given up: then what was sent has had its time. */
        @Override
        public void close(ChannelHandlerContext ctx, ChannelPromise promise) {
            isAsleep = false;
            ctx.close(promise);
        }

        /** What could not be sent is begun by nobody. The worker's thread hears of it after us. */
        @Override
        public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
            if (message instanceof ModelInferenceRequest) {
                run.statistics.onBatchSent();
            }
            ChannelPromise sent = ctx.newPromise();
            sent.addListener(
                    done -> {
                        if (done.isSuccess()) {
                            promise.trySuccess();
                        } else {
                            if (done.cause() instanceof IOException) { // the connection has ended
                                run.onSessionEnded();
                            }
                            promise.tryFailure(done.cause());
                        }
                    });
            ctx.write(message, sent);
        }
    }

    // ---- all else is the loops' own ----

    @Override
    public EventLoop next() {
        return loops.next();
    }

    @Override
    public ChannelFuture register(ChannelPromise promise) {
        return loops.register(promise);
    }

    @Override
    @Deprecated
    public ChannelFuture register(Channel channel, ChannelPromise promise) {
        return loops.register(channel, promise);
    }

    @Override
    public Iterator<EventExecutor> iterator() {
        return loops.iterator();
    }

    @Override
    public Future<?> shutdownGracefully(long quietPeriod, long timeout, TimeUnit unit) {
        return loops.shutdownGracefully(quietPeriod, timeout, unit);
    }

    @Override
    public Future<?> terminationFuture() {
        return loops.terminationFuture();
    }

    @Override
    @Deprecated
    public void shutdown() {
        loops.shutdown();
    }

    @Override
    public boolean isShuttingDown() {
        return loops.isShuttingDown();
    }

    @Override
    public boolean isShutdown() {
        return loops.isShutdown();
    }

    @Override
    public boolean isTerminated() {
        return loops.isTerminated();
    }

    @Override
    public boolean awaitTermination(long timeout, TimeUnit unit) throws InterruptedException {
        return loops.awaitTermination(timeout, unit);
    }
}
