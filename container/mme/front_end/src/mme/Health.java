package mme;

/** Whether GET /ping is answered 200, and if not, why. In single-model mode also what became of the model. */
final class Health {
    private volatile String reported = "The server is starting."; // until the supervisor reports that all is well
    private volatile String startupModel = "none"; // loading, loaded, failed
    private volatile int failureStatus;
    private volatile String failure = "";

    /** Why /ping is not to be answered 200; null where all is well. */
    String reasonUnhealthy() {
        String reason = reported;
        if (reason != null) {
            return reason;
        }
        switch (startupModel) {
            case "loading":
                return "The model is being loaded.";
            case "failed":
                return "The model does not load: " + failure;
            default:
                return null;
        }
    }

    void report(String reason) {
        reported = reason;
    }

    void startupModelIsLoading() {
        startupModel = "loading";
    }

    void startupModelIsLoaded() {
        startupModel = "loaded";
    }

    void startupModelHasFailed(int status, String reason) {
        failureStatus = status;
        failure = reason == null ? "" : reason;
        startupModel = "failed";
    }

    String startupModel() {
        return startupModel;
    }

    int failureStatus() {
        return failureStatus;
    }

    String failure() {
        return failure;
    }
}
