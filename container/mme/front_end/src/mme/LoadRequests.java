package mme;

import com.amazonaws.ml.mms.http.BadRequestException;
import com.amazonaws.ml.mms.http.messages.RegisterModelRequest;
import com.amazonaws.ml.mms.util.JsonUtils;
import com.google.gson.Gson;
import com.google.gson.TypeAdapter;
import com.google.gson.reflect.TypeToken;
import com.google.gson.stream.JsonReader;
import com.google.gson.stream.JsonToken;
import com.google.gson.stream.JsonWriter;
import java.io.IOException;
import java.util.Map;

/**
 * Reads the JSON of POST /models. MMS answers 500, with the words of a Java exception, to what is no JSON, no object, or
 * has a text where a number belongs; here it is 400.
 */
final class LoadRequests extends TypeAdapter<RegisterModelRequest> {
    private static final String EXPECTED =
            "A load is {\"model_name\": \"NAME\", \"url\": \"FOLDER\"}, optionally with \"handler\", \"runtime\" (texts),"
                    + " \"batch_size\", \"max_batch_delay\", \"initial_workers\", \"response_timeout\" (whole numbers),"
                    + " \"synchronous\" (true or false): ";

    private final TypeAdapter<RegisterModelRequest> original;

    private LoadRequests(TypeAdapter<RegisterModelRequest> original) {
        this.original = original;
    }

    @SuppressWarnings("unchecked")
    static void install() throws ReflectiveOperationException {
        TypeAdapter<RegisterModelRequest> original = JsonUtils.GSON.getAdapter(RegisterModelRequest.class);
        Map<TypeToken<?>, TypeAdapter<?>> adapters =
                (Map<TypeToken<?>, TypeAdapter<?>>)
                        FrontEndGuard.accessible(Gson.class, "typeTokenCache").get(JsonUtils.GSON);
        adapters.put(TypeToken.get(RegisterModelRequest.class), new LoadRequests(original));
    }

    @Override
    public RegisterModelRequest read(JsonReader in) {
        RegisterModelRequest request;
        try {
            request = original.read(in);
            if (in.peek() != JsonToken.END_DOCUMENT) {
                throw new BadRequestException(EXPECTED + "more follows after its end.");
            }
        } catch (BadRequestException e) {
            throw e;
        } catch (IOException | RuntimeException e) {
            throw new BadRequestException(EXPECTED + reason(e));
        } catch (StackOverflowError e) {
            throw new BadRequestException(EXPECTED + "it is nested too deeply.");
        }
        if (request == null) {
            throw new BadRequestException(EXPECTED + "it is empty.");
        }
        return request;
    }

    /** The innermost message, without the name of an exception. */
    private static String reason(Throwable error) {
        Throwable innermost = error;
        while (innermost.getCause() != null) {
            innermost = innermost.getCause();
        }
        return innermost.getMessage() == null ? "it is no JSON." : innermost.getMessage();
    }

    @Override
    public void write(JsonWriter out, RegisterModelRequest request) throws IOException {
        original.write(out, request);
    }
}
