package mme;

import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpMethod;

/** What a request asks for, as far as its answers are counted. */
enum RequestKind {
    LOAD,
    INVOCATION,
    DESCRIPTION,
    OTHER;

    static RequestKind of(FullHttpRequest request) {
        String uri = request.uri();
        int end = uri.indexOf('?');
        String path = end < 0 ? uri : uri.substring(0, end);
        if (path.equals("/models")) {
            return HttpMethod.POST.equals(request.method()) ? LOAD : OTHER;
        }
        boolean isInvocation =
                path.endsWith("/invoke") || path.equals("/invocations") || path.startsWith("/predictions/");
        if (isInvocation) {
            return INVOCATION;
        }
        return path.startsWith("/models/") && HttpMethod.GET.equals(request.method()) ? DESCRIPTION : OTHER;
    }
}
