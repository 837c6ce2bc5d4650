package mme;

import com.amazonaws.ml.mms.archive.ModelException;
import com.amazonaws.ml.mms.http.ErrorResponse;
import com.amazonaws.ml.mms.http.InferenceRequestHandler;
import com.amazonaws.ml.mms.http.MethodNotAllowedException;
import com.amazonaws.ml.mms.util.JsonUtils;
import io.netty.buffer.ByteBufOutputStream;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.QueryStringDecoder;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.Proxy;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.Map;
import software.amazon.ai.mms.servingsdk.Context;
import software.amazon.ai.mms.servingsdk.ModelServerEndpoint;
import software.amazon.ai.mms.servingsdk.http.Request;
import software.amazon.ai.mms.servingsdk.http.Response;

/**
 * GET /metrics, as MMS's plug-ins bring endpoints. Another process words the answer (metrics/exporter.py): it listens
 * at this machine's own address, and a file of the private folder has its port.
 */
final class MetricsEndpoint extends ModelServerEndpoint {
    private static final Path PORT_FILE = Path.of(Agent.PRIVATE_FOLDER, "metrics-port");
    private static final String NAME = "metrics";
    private static final int CONNECT_TIMEOUT_MS = 2_000;
    private static final int READ_TIMEOUT_MS = 20_000; // the process is started for the first request

    private final int port;
    private final String accept;

    /** Of one request: MMS shows an endpoint which headers there are, but not what they say. */
    private MetricsEndpoint(int port, String accept) {
        this.port = port;
        this.accept = accept;
    }

    static int readPort() throws IOException {
        return Integer.parseInt(Files.readString(PORT_FILE).trim());
    }

    /** Called in a thread of its own. */
    @Override
    public void doGet(Request request, Response response, Context context) throws IOException {
        HttpURLConnection connection =
                (HttpURLConnection) new URL("http", "127.0.0.1", port, "/metrics").openConnection(Proxy.NO_PROXY);
        connection.setConnectTimeout(CONNECT_TIMEOUT_MS);
        connection.setReadTimeout(READ_TIMEOUT_MS);
        if (accept != null) {
            connection.setRequestProperty(HttpHeaderNames.ACCEPT.toString(), accept);
        }
        ByteBufOutputStream body = (ByteBufOutputStream) response.getOutputStream(); // as ModelServerResponse has it
        try (InputStream stream = connection.getInputStream()) {
            body.buffer().ensureWritable(connection.getContentLength()); // megabytes, once
            stream.transferTo(body);
            response.setContentType(connection.getContentType());
        } catch (IOException e) {
            body.buffer().clear();
            refuse(response, "The process that words metrics does not answer: " + e.getMessage());
        } finally {
            connection.disconnect();
        }
    }

    private static void refuse(Response response, String message) throws IOException {
        HttpResponseStatus status = HttpResponseStatus.SERVICE_UNAVAILABLE;
        response.setStatus(status.code());
        response.setContentType(HttpHeaderValues.APPLICATION_JSON.toString());
        ErrorResponse error = new ErrorResponse(status.code(), "ServiceUnavailableException", message);
        String text = JsonUtils.GSON_PRETTY.toJson(error) + '\n';
        response.getOutputStream().write(text.getBytes(StandardCharsets.UTF_8));
    }

    /** MMS's handler of requests that are not for the management, with this endpoint; one for each connection. */
    static final class Handler extends InferenceRequestHandler {
        private final int port;

        Handler(int port) {
            super(Collections.emptyMap());
            this.port = port;
        }

        @Override
        protected void handleRequest(
                ChannelHandlerContext ctx, FullHttpRequest request, QueryStringDecoder decoder, String[] segments)
                throws ModelException {
            endpointMap = Collections.emptyMap();
            if (segments.length == 2 && NAME.equals(segments[1])) {
                if (!HttpMethod.GET.equals(request.method())) {
                    throw new MethodNotAllowedException();
                }
                endpointMap = Map.of(NAME, new MetricsEndpoint(port, request.headers().get(HttpHeaderNames.ACCEPT)));
            }
            super.handleRequest(ctx, request, decoder, segments);
        }
    }
}
