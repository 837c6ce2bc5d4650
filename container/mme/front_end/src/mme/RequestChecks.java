package mme;

import com.amazonaws.ml.mms.http.BadRequestException;
import com.amazonaws.ml.mms.http.messages.RegisterModelRequest;
import com.amazonaws.ml.mms.util.ConfigManager;
import com.amazonaws.ml.mms.util.JsonUtils;
import com.amazonaws.ml.mms.util.NettyUtils;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.ByteBufUtil;
import io.netty.buffer.Unpooled;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpUtil;
import io.netty.handler.codec.http.QueryStringDecoder;
import io.netty.handler.codec.http.multipart.DefaultHttpDataFactory;
import io.netty.handler.codec.http.multipart.HttpPostRequestDecoder;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What MMS would answer 500, with the words of a Java exception, to requests that are wrong themselves (MMS-9), and
 * what it would download (MMS-5). Each check reads the request in the same way as MMS's handler, which comes next.
 */
final class RequestChecks {
    private static final String LOAD =
            "A load is {\"model_name\": \"NAME\", \"url\": \"FOLDER\"}, optionally with \"handler\", \"runtime\""
                    + " (texts), \"batch_size\", \"max_batch_delay\", \"initial_workers\", \"response_timeout\" (whole numbers),"
                    + " \"synchronous\" (true or false): ";
    private static final Pattern DOWNLOAD = Pattern.compile("https?://.*", Pattern.CASE_INSENSITIVE | Pattern.DOTALL);
    private static final Pattern BOUNDARY = Pattern.compile("boundary=\"?([^\";]+)", Pattern.CASE_INSENSITIVE);
    // Parts of forms above this size go to a file while they are looked at.
    private static final long IN_MEMORY_BYTES = 6_553_500;
    private static final String INITIAL_WORKERS = "initial_workers";
    private static final int LONGEST_REASON = 300; // characters

    private RequestChecks() {}

    static boolean isPing(FullHttpRequest request) {
        String uri = request.uri();
        return uri.equals("/ping") || uri.startsWith("/ping?") || uri.startsWith("/ping/");
    }

    /** Throws BadRequestException with what is wrong, and what would be right. */
    static void check(FullHttpRequest request) {
        if (!request.decoderResult().isSuccess()) {
            return; // MMS answers 400
        }
        String[] segments;
        QueryStringDecoder decoder = new QueryStringDecoder(request.uri());
        try {
            segments = decoder.path().split("/");
            decoder.parameters();
        } catch (IllegalArgumentException e) {
            throw new BadRequestException("The URL is not well-formed: " + reason(e));
        }
        if (segments.length == 1) {
            throw new BadRequestException("The URL names no path that begins with a slash.");
        }
        boolean isManagement = segments.length >= 2 && segments.length <= 3 && "models".equals(segments[1]);
        if (!isManagement) {
            checkForm(request);
        } else if (segments.length == 2 && HttpMethod.POST.equals(request.method())) {
            checkLoad(load(request, decoder));
        } else if (HttpMethod.PUT.equals(request.method())) {
            checkScaling(decoder);
        }
    }

    /** Whether a request that {@link #check} has let through says how many workers a model is to have. */
    static boolean givesWorkers(FullHttpRequest request) {
        if (!request.uri().startsWith("/models") || !request.decoderResult().isSuccess()) {
            return false;
        }
        if (HttpMethod.PUT.equals(request.method())) {
            return true;
        }
        QueryStringDecoder decoder = new QueryStringDecoder(request.uri());
        if (!HttpMethod.POST.equals(request.method()) || decoder.path().split("/").length != 2) {
            return false;
        }
        if (!HttpHeaderValues.APPLICATION_JSON.contentEqualsIgnoreCase(HttpUtil.getMimeType(request))) {
            return decoder.parameters().containsKey(INITIAL_WORKERS);
        }
        String body = request.content().toString(StandardCharsets.UTF_8);
        return JsonUtils.GSON.fromJson(body, JsonObject.class).has(INITIAL_WORKERS);
    }

    private static RegisterModelRequest load(FullHttpRequest request, QueryStringDecoder decoder) {
        if (!HttpHeaderValues.APPLICATION_JSON.contentEqualsIgnoreCase(HttpUtil.getMimeType(request))) {
            return new RegisterModelRequest(decoder);
        }
        RegisterModelRequest load;
        try {
            String body = request.content().toString(StandardCharsets.UTF_8);
            load = JsonUtils.GSON.fromJson(body, RegisterModelRequest.class);
        } catch (JsonParseException e) {
            throw new BadRequestException(LOAD + reason(e));
        } catch (StackOverflowError e) {
            throw new BadRequestException(LOAD + "it is nested too deeply.");
        }
        if (load == null) {
            throw new BadRequestException(LOAD + "it is empty.");
        }
        return load;
    }

    private static void checkLoad(RegisterModelRequest load) {
        if (load.getResponseTimeoutSeconds() < 1 && load.getResponseTimeoutSeconds() != -1) {
            throw new BadRequestException(LOAD + "response_timeout is less than 1.");
        }
        String url = load.getModelUrl();
        if (url == null) {
            return; // MMS answers 400
        }
        if (DOWNLOAD.matcher(url).matches()) {
            throw new BadRequestException(
                    "This server downloads no models. \"url\" is the path of a folder that models may be loaded from.");
        }
        String store = ConfigManager.getInstance().getModelStore();
        if (store == null || url.contains("..")) {
            return; // MMS answers 404
        }
        File folder = new File(store, url);
        if (folder.isFile()) {
            throw new BadRequestException(
                    "\"url\" names a file. Models are loaded from folders: unpack the archive, and name its folder.");
        }
        ManifestCheck.check(folder);
    }

    private static void checkScaling(QueryStringDecoder decoder) {
        for (String name : new String[] {"min_worker", "max_worker"}) {
            if (NettyUtils.getIntParameter(decoder, name, 0) < 0) {
                throw new BadRequestException(name + " is less than 0.");
            }
        }
    }

    /** A form is read as a whole: MMS does the same, and then makes inputs of its parts. */
    private static void checkForm(FullHttpRequest request) {
        HttpPostRequestDecoder form = null;
        try {
            boolean isForm =
                    HttpPostRequestDecoder.isMultipart(request)
                            || HttpHeaderValues.APPLICATION_X_WWW_FORM_URLENCODED.contentEqualsIgnoreCase(
                                    HttpUtil.getMimeType(request));
            if (!isForm) {
                return;
            }
            FullHttpRequest copy = request.replace(request.content().duplicate()); // with a reader's place of its own
            form = new HttpPostRequestDecoder(new DefaultHttpDataFactory(IN_MEMORY_BYTES), copy);
            while (form.hasNext()) {
                NettyUtils.getFormData(form.next());
            }
            checkEnd(request);
        } catch (HttpPostRequestDecoder.EndOfDataDecoderException e) {
            return; // netty's way to say that all has been read
        } catch (BadRequestException e) {
            throw e;
        } catch (RuntimeException | AssertionError e) {
            throw new BadRequestException("The form in the body cannot be read: " + reason(e));
        } finally {
            if (form != null) {
                form.destroy();
            }
        }
    }

    /** Netty takes parts that end too early for none. */
    private static void checkEnd(FullHttpRequest request) {
        Matcher boundary = BOUNDARY.matcher(request.headers().get(HttpHeaderNames.CONTENT_TYPE));
        if (boundary.find()) {
            ByteBuf end = Unpooled.copiedBuffer("--" + boundary.group(1) + "--", StandardCharsets.UTF_8);
            if (ByteBufUtil.indexOf(end, request.content()) < 0) {
                throw new BadRequestException("The form in the body does not end with its boundary.");
            }
        }
    }

    /** What a parser says, without the name of an exception. What is no parser's word tells a client nothing. */
    static String reason(Throwable error) {
        Throwable innermost = error;
        while (innermost.getCause() != null) {
            innermost = innermost.getCause();
        }
        boolean isParsers =
                innermost instanceof IOException
                        || innermost instanceof IllegalArgumentException
                        || innermost instanceof IllegalStateException
                        || innermost instanceof JsonParseException
                        || innermost instanceof HttpPostRequestDecoder.ErrorDataDecoderException;
        String message = innermost.getMessage();
        if (!isParsers || message == null) {
            return "it ends too early, or is something else.";
        }
        return message.length() > LONGEST_REASON ? message.substring(0, LONGEST_REASON) + "…" : message;
    }
}
