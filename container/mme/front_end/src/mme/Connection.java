package mme;

import com.amazonaws.ml.mms.http.BadRequestException;
import com.amazonaws.ml.mms.http.ErrorResponse;
import com.amazonaws.ml.mms.http.ServiceUnavailableException;
import com.amazonaws.ml.mms.util.JsonUtils;
import com.amazonaws.ml.mms.util.NettyUtils;
import com.amazonaws.ml.mms.wlm.Model;
import com.amazonaws.ml.mms.wlm.ModelManager;
import com.google.gson.JsonObject;
import io.netty.buffer.ByteBuf;
import io.netty.channel.ChannelDuplexHandler;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelPromise;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpStatusClass;
import io.netty.handler.codec.http.HttpUtil;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Queue;

/**
 * One client's connection, between netty's codec and MMS's handler. One request at a time: MMS answers in whatever
 * order the models do (MMS-16).
 *
 * <ul>
 *   <li>Requests are counted from their first bytes to the last of their answers; a draining server answers 503.
 *   <li>GET /ping is answered 503 where {@link Health} says so (MMS-12).
 *   <li>What {@link RequestChecks} finds is answered 400 (MMS-9).
 *   <li>The 503 of a queue that is full says when to come again (Retry-After).
 *   <li>The answer to a load that failed gets the reason (MMS-11).
 *   <li>The description of a model says whether it sleeps.
 *   <li>A request whose client has gone is taken out of its model's queue (MMS-10).
 * </ul>
 */
final class Connection extends ChannelDuplexHandler {
    private static final String TARGET_MODEL = "X-Amzn-SageMaker-Target-Model";
    private static final ThreadLocal<Connection> CURRENT = new ThreadLocal<>();
    private static final int RETRY_AFTER_S = 1; // a queue that is full has room again as soon as one is answered

    private final Traffic traffic;
    private final Health health;
    private final PatchedWorkLoadManager loads;
    private final Queue<FullHttpRequest> pipelined = new ArrayDeque<>();
    private boolean isAnswering;
    private boolean isLate; // the head that was read last came when the server was draining
    private Model loading; // by the request that is being answered
    private RequestQueue queue; // in which it may wait
    private MeasuredJob job;
    private boolean givesWorkers; // the request that is being served
    private boolean isRefusedForNow; // another time it may be served
    private final ModelStatistics statistics;
    private final boolean recordsTargets;
    private RequestKind kind = RequestKind.OTHER; // of the request that is being answered
    private String target; // its X-Amzn-SageMaker-Target-Model

    Connection(
            Traffic traffic,
            Health health,
            PatchedWorkLoadManager loads,
            ModelStatistics statistics,
            boolean recordsTargets) {
        this.traffic = traffic;
        this.health = health;
        this.loads = loads;
        this.statistics = statistics;
        this.recordsTargets = recordsTargets;
    }

    /** The connection whose request this thread hands to MMS; null in other threads. */
    static Connection current() {
        return CURRENT.get();
    }

    void loads(Model model) {
        loading = model;
    }

    /** Whether the request says how many workers its model is to have. */
    boolean givesWorkers() {
        return givesWorkers;
    }

    void isRefusedForNow() {
        isRefusedForNow = true;
    }

    void waits(RequestQueue in, MeasuredJob waiting) {
        queue = in;
        job = waiting;
        if (target != null) {
            in.record().onTarget(target);
        }
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        FullHttpRequest request = (FullHttpRequest) message;
        if (isAnswering) {
            pipelined.add(request);
        } else {
            serve(ctx, request, isLate);
        }
    }

    private void serve(ChannelHandlerContext ctx, FullHttpRequest request, boolean comesTooLate) {
        isAnswering = true;
        kind = RequestKind.of(request);
        target = recordsTargets ? request.headers().get(TARGET_MODEL) : null;
        if (comesTooLate) {
            statistics.add(ModelStatistics.DRAINING, 1);
            kind = RequestKind.OTHER;
            refuse(ctx, request, HttpResponseStatus.SERVICE_UNAVAILABLE, "The server is stopping.");
            return;
        }
        String unhealthy = RequestChecks.isPing(request) ? health.reasonUnhealthy() : null;
        if (unhealthy != null) {
            refuse(ctx, request, HttpResponseStatus.SERVICE_UNAVAILABLE, unhealthy);
            return;
        }
        try {
            RequestChecks.check(request);
        } catch (BadRequestException e) {
            refuse(ctx, request, HttpResponseStatus.BAD_REQUEST, e.getMessage());
            return;
        }
        givesWorkers = RequestChecks.givesWorkers(request);
        CURRENT.set(this);
        try {
            ctx.fireChannelRead(request);
        } finally {
            CURRENT.remove();
        }
    }

    private static void refuse(
            ChannelHandlerContext ctx, FullHttpRequest request, HttpResponseStatus status, String message) {
        try {
            NettyUtils.requestReceived(ctx.channel(), request); // for the access log
            boolean isBad = HttpResponseStatus.BAD_REQUEST.equals(status);
            NettyUtils.sendError(
                    ctx, status, isBad ? new BadRequestException(message) : new ServiceUnavailableException(message));
        } finally {
            request.release();
        }
    }

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        if (!(message instanceof FullHttpResponse)) {
            ctx.write(message, promise);
            return;
        }
        FullHttpResponse response = (FullHttpResponse) message;
        if (kind == RequestKind.DESCRIPTION && HttpResponseStatus.OK.equals(response.status())) {
            tellAsleep(response);
        }
        if (loading != null && response.status().codeClass() != HttpStatusClass.SUCCESS) {
            tellReason(response, loads.reasonOfFailure(loading));
        }
        if (kind == RequestKind.LOAD) {
            boolean isOurs = loading != null && !statistics.has(RequestQueue.of(loading).record());
            if (!isOurs) {
                statistics.onLoadAnswered(response.status().code());
            }
        } else if (kind == RequestKind.INVOCATION && job == null) {
            statistics.onInvocationRefused(response.status().code());
        }
        if (traffic.isDraining()) {
            response.headers().set(HttpHeaderNames.CONNECTION, HttpHeaderValues.CLOSE);
            promise.addListener(ChannelFutureListener.CLOSE);
        }
        if (isRefusedForNow) {
            response.headers().set(HttpHeaderNames.RETRY_AFTER, RETRY_AFTER_S);
        }
        ctx.write(response, promise);
        isRefusedForNow = false;
        loading = null;
        job = null;
        isAnswering = false;
        if (!pipelined.isEmpty()) {
            ctx.executor().execute(() -> serveNext(ctx));
        }
    }

    private void serveNext(ChannelHandlerContext ctx) {
        if (!isAnswering && !pipelined.isEmpty()) {
            serve(ctx, pipelined.remove(), traffic.isDraining());
        }
    }

    private static void tellReason(FullHttpResponse response, String reason) {
        if (reason == null) {
            return; // MMS has learned of the failure by the end of the connection alone
        }
        ByteBuf body = response.content();
        ErrorResponse error;
        error = JsonUtils.GSON.fromJson(body.toString(StandardCharsets.UTF_8), ErrorResponse.class);
        setBody(response, new ErrorResponse(error.getCode(), error.getType(), reason));
    }

    /** A description says whether the next request has to wake the model. */
    private static void tellAsleep(FullHttpResponse response) {
        ByteBuf body = response.content();
        JsonObject description = JsonUtils.GSON.fromJson(body.toString(StandardCharsets.UTF_8), JsonObject.class);
        Model model = ModelManager.getInstance().getModels().get(description.get("modelName").getAsString());
        if (model != null) {
            description.addProperty("asleep", RequestQueue.of(model).record().isAsleep());
            setBody(response, description);
        }
    }

    private static void setBody(FullHttpResponse response, Object json) {
        ByteBuf body = response.content();
        body.clear().writeCharSequence(JsonUtils.GSON_PRETTY.toJson(json) + '\n', StandardCharsets.UTF_8);
        HttpUtil.setContentLength(response, body.readableBytes());
    }

    @Override
    public void channelInactive(ChannelHandlerContext ctx) {
        if (job != null) {
            queue.giveUp(job);
        }
        pipelined.forEach(FullHttpRequest::release);
        pipelined.clear();
        ctx.fireChannelInactive();
    }

    /** Stands before the aggregator: it sees the heads of requests, and all answers. */
    ChannelHandler counter() {
        return new Counter();
    }

    private final class Counter extends ChannelDuplexHandler {
        private int pending; // requests of this connection

        @Override
        public void channelRead(ChannelHandlerContext ctx, Object message) {
            if (message instanceof HttpRequest) {
                pending++;
                isLate = !traffic.begin();
            }
            ctx.fireChannelRead(message);
        }

        @Override
        public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
            boolean isInterim =
                    message instanceof HttpResponse
                            && ((HttpResponse) message).status().codeClass() == HttpStatusClass.INFORMATIONAL;
            if (message instanceof FullHttpResponse && !isInterim) {
                promise.addListener(written -> end(1));
            }
            ctx.write(message, promise);
        }

        @Override
        public void channelInactive(ChannelHandlerContext ctx) {
            end(pending);
            ctx.fireChannelInactive();
        }

        private void end(int requests) {
            for (int i = Math.min(requests, pending); i > 0; i--) {
                pending--;
                traffic.end();
            }
        }
    }
}
