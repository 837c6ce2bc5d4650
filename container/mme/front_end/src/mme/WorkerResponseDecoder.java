package mme;

import com.amazonaws.ml.mms.http.ErrorResponse;
import com.amazonaws.ml.mms.util.JsonUtils;
import com.amazonaws.ml.mms.util.messages.ModelWorkerResponse;
import com.amazonaws.ml.mms.util.messages.Predictions;
import io.netty.buffer.ByteBuf;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.CorruptedFrameException;
import io.netty.handler.codec.ReplayingDecoder;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Reads what workers answer, in the place of ModelResponseDecoder; zygote/protocol.py has the bytes. MMS's own
 * fails where a read ends among the headers (MMS-8), and ends the worker where an answer is larger than the limit
 * (MMS-13): that answer is dropped as it comes here, and replaced by an error that says so.
 */
final class WorkerResponseDecoder extends ReplayingDecoder<Void> {
    private static final Logger LOGGER = LoggerFactory.getLogger(WorkerResponseDecoder.class);
    private static final int END_OF_LIST = -1;

    private final int limitBytes;
    // What has been read of a response, up to the last checkpoint.
    private ModelWorkerResponse response;
    private List<Predictions> predictions;
    private Predictions prediction; // its body is yet to come
    private int bodyBytes;
    private int droppedBytes;

    WorkerResponseDecoder(int limitBytes) {
        this.limitBytes = limitBytes;
    }

    @Override
    protected void decode(ChannelHandlerContext ctx, ByteBuf in, List<Object> out) {
        if (response == null) {
            ModelWorkerResponse head = new ModelWorkerResponse();
            head.setCode(in.readInt());
            head.setMessage(text(in));
            response = head;
            predictions = new ArrayList<>();
            checkpoint();
        }
        if (prediction == null) {
            int idBytes = in.readInt();
            if (idBytes == END_OF_LIST) {
                response.setPredictions(predictions);
                out.add(response);
                response = null;
                return;
            }
            Predictions next = new Predictions();
            next.setRequestId(text(in, idBytes));
            next.setContentType(text(in));
            next.setStatusCode(in.readInt());
            next.setReasonPhrase(text(in));
            next.setHeaders(headers(in));
            bodyBytes = checked(in.readInt(), Integer.MAX_VALUE);
            droppedBytes = 0;
            prediction = next;
            checkpoint();
        }
        if (bodyBytes > limitBytes) {
            drop(in);
        } else {
            ByteBuf whole = in.readSlice(bodyBytes); // waits until it is there
            byte[] body = new byte[bodyBytes];
            whole.readBytes(body);
            prediction.setResp(body);
        }
        predictions.add(prediction);
        prediction = null;
        checkpoint();
    }

    private void drop(ByteBuf in) {
        while (droppedBytes < bodyBytes) {
            // Of one byte that is not there yet, the decoder waits for more.
            int next = Math.max(1, Math.min(actualReadableBytes(), bodyBytes - droppedBytes));
            in.skipBytes(next);
            droppedBytes += next;
            checkpoint();
        }
        String message =
                "The model's answer is "
                        + bodyBytes
                        + " bytes large, and the front end carries "
                        + limitBytes
                        + ". Let the model answer less, or raise SAGEMAKER_MAX_PAYLOAD_IN_MB.";
        LOGGER.error("{}", message);
        HttpResponseStatus status = HttpResponseStatus.INTERNAL_SERVER_ERROR;
        prediction.setStatusCode(status.code());
        prediction.setReasonPhrase(status.reasonPhrase());
        prediction.setContentType(HttpHeaderValues.APPLICATION_JSON.toString());
        prediction.setHeaders(Map.of());
        ErrorResponse error = new ErrorResponse(status.code(), "ResponseTooLargeException", message);
        prediction.setResp((JsonUtils.GSON_PRETTY.toJson(error) + '\n').getBytes(StandardCharsets.UTF_8));
    }

    private Map<String, String> headers(ByteBuf in) {
        Map<String, String> headers = new HashMap<>();
        for (int left = in.readInt(); left > 0; left--) {
            String name = text(in);
            headers.put(name, text(in));
        }
        return headers;
    }

    private String text(ByteBuf in) {
        return text(in, in.readInt());
    }

    private String text(ByteBuf in, int bytes) {
        return in.readCharSequence(checked(bytes, limitBytes), StandardCharsets.UTF_8).toString();
    }

    private static int checked(int bytes, int limitBytes) {
        if (bytes < 0 || bytes > limitBytes) {
            throw new CorruptedFrameException("a field of " + bytes + " bytes; expected 0 to " + limitBytes);
        }
        return bytes;
    }
}
