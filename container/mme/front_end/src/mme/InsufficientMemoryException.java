package mme;

/** Something has run out that models need. MMS answers 507 to its kind, with this name as the type. */
final class InsufficientMemoryException extends OutOfMemoryError {
    private static final long serialVersionUID = 1L;

    InsufficientMemoryException(String message) {
        super(message);
    }
}
