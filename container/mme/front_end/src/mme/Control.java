package mme;

import com.amazonaws.ml.mms.util.JsonUtils;
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * What the supervisor tells and asks (supervisor/agent.py): two named pipes in the server's private folder. A line
 * each way; NUMBER is the command's, in its answer too.
 *
 * <pre>
 * agent.commands                     agent.answers
 * NUMBER status                      NUMBER {"in_flight": 3, "startup_model": "none", …}
 * NUMBER drain                       NUMBER {…}      when new connections are refused
 * NUMBER healthy                     NUMBER {…}
 * NUMBER unhealthy REASON            NUMBER {…}      GET /ping is answered 503 with it
 * 0 scale WORKERS MODEL              none            the model is to have so many workers
 *                                    0 {"event": "serving"}      when all listeners are there
 * </pre>
 */
final class Control extends Thread {
    private static final String COMMANDS = Agent.PRIVATE_FOLDER + "/agent.commands";
    private static final String ANSWERS = Agent.PRIVATE_FOLDER + "/agent.answers";
    private static final String UNANSWERED = "0";

    private final FrontEnd frontEnd;
    private final BufferedReader commands;
    private final OutputStream answers;

    Control(FrontEnd frontEnd) throws IOException {
        super("mms-agent");
        setDaemon(true);
        this.frontEnd = frontEnd;
        commands = new BufferedReader(new InputStreamReader(new FileInputStream(COMMANDS), StandardCharsets.UTF_8));
        answers = new FileOutputStream(ANSWERS);
    }

    @Override
    public void run() {
        try {
            for (String line = commands.readLine(); line != null; line = commands.readLine()) {
                String[] words = line.split(" ", 3);
                act(words[1], words.length > 2 ? words[2] : "");
                if (!words[0].equals(UNANSWERED)) {
                    write(words[0], status());
                }
            }
            // The supervisor is gone, and its zygote ends this process.
        } catch (Throwable e) {
            Agent.fail(e);
        }
    }

    private void act(String command, String argument) throws InterruptedException {
        switch (command) {
            case "status":
                break;
            case "drain":
                frontEnd.drain();
                break;
            case "healthy":
                frontEnd.health().report(null);
                break;
            case "unhealthy":
                frontEnd.health().report(argument);
                break;
            case "scale":
                String[] words = argument.split(" ", 2);
                frontEnd.scale(words[1], Integer.parseInt(words[0]));
                break;
            default:
                throw new IllegalArgumentException("unknown command: " + command);
        }
    }

    private Map<String, Object> status() {
        Map<String, Object> status = new LinkedHashMap<>();
        status.put("in_flight", frontEnd.traffic().inFlight());
        Health health = frontEnd.health();
        status.put("startup_model", health.startupModel());
        status.put("failure_status", health.failureStatus());
        status.put("failure", health.failure());
        return status;
    }

    void say(String event) throws IOException {
        write("0", Map.of("event", event));
    }

    private synchronized void write(String number, Map<String, ?> answer) throws IOException {
        answers.write((number + ' ' + JsonUtils.GSON.toJson(answer) + '\n').getBytes(StandardCharsets.UTF_8));
    }
}
