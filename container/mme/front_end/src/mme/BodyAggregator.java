package mme;

import com.amazonaws.ml.mms.http.ErrorResponse;
import com.amazonaws.ml.mms.util.JsonUtils;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelFuture;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelPipeline;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpMessage;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpUtil;
import io.netty.handler.codec.http.HttpVersion;
import java.nio.charset.StandardCharsets;

/** Collects a request's body. Where it is too large, 413 says what the limit is, and netty nothing (MMS-15). */
final class BodyAggregator extends HttpObjectAggregator {
    private final ModelStatistics statistics;

    BodyAggregator(int limitBytes, ModelStatistics statistics) {
        super(limitBytes);
        this.statistics = statistics;
    }

    @Override
    protected Object newContinueResponse(HttpMessage start, int maxContentLength, ChannelPipeline pipeline) {
        Object response = super.newContinueResponse(start, maxContentLength, pipeline);
        boolean isTooLarge =
                response instanceof HttpResponse
                        && ((HttpResponse) response).status().equals(HttpResponseStatus.REQUEST_ENTITY_TOO_LARGE);
        return isTooLarge ? tooLarge() : response;
    }

    @Override
    protected void handleOversizedMessage(ChannelHandlerContext ctx, HttpMessage oversized) {
        FullHttpResponse response = tooLarge();
        // What is left of the body is read and dropped where the connection is kept: clients send before they look.
        boolean isKept = HttpUtil.isKeepAlive(oversized);
        HttpUtil.setKeepAlive(response, isKept);
        ChannelFuture sent = ctx.writeAndFlush(response);
        if (!isKept) {
            sent.addListener(ChannelFutureListener.CLOSE);
        }
    }

    private FullHttpResponse tooLarge() {
        statistics.add(ModelStatistics.TOO_LARGE, 1);
        String message =
                "The body is larger than the "
                        + maxContentLength()
                        + " bytes that this server takes. SAGEMAKER_MAX_PAYLOAD_IN_MB sets the limit.";
        ErrorResponse error =
                new ErrorResponse(
                        HttpResponseStatus.REQUEST_ENTITY_TOO_LARGE.code(), "RequestEntityTooLargeException", message);
        ByteBuf body = Unpooled.copiedBuffer(JsonUtils.GSON_PRETTY.toJson(error) + '\n', StandardCharsets.UTF_8);
        FullHttpResponse response =
                new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.REQUEST_ENTITY_TOO_LARGE, body);
        response.headers().set(HttpHeaderNames.CONTENT_TYPE, HttpHeaderValues.APPLICATION_JSON);
        response.headers().set(HttpHeaderNames.CONTENT_LENGTH, body.readableBytes());
        return response;
    }
}
